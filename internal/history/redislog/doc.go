// Package redislog keeps the log of a partition in Redis: its scripts do what
// store.Log does, and a differential test holds one to the other.
//
// A script is one step. It touches the keys that it declares and no other, so on a
// Cluster whose slot moves it is refused before it has changed anything. What is
// read in more than one step, the chains of a survey, is put together here. The
// steps count only in the epoch of the first one, and above the horizon.
package redislog
