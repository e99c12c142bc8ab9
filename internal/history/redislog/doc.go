// Package redislog keeps the log of a partition in Redis. Its scripts do what
// store.Log does; a differential test compares the two.
//
// A script is one step. It touches only the keys that it declares, so on a Cluster
// whose slot moves it is refused before it has changed anything. What takes more than
// one step to read, such as the chains of a survey, is put together here. The steps
// count only in the epoch of the first one, and above the horizon. If many clients come
// back at once, the node copies what they read, and puts it together without Redis.
package redislog
