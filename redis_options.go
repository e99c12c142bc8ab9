package herald

import "time"

// RedisOptions are what the Redis Bus and the Redis Registry can be told.
// The zero value of each field has the default that its comment gives.
type RedisOptions struct {
	Prefix        string        // begins every key and channel; no '{' or '}'. Default "herald"
	ProbeInterval time.Duration // the bus is proved healthy so often. Default 10 s
	ProbeTimeout  time.Duration // for the proof. Default 5 s
}
