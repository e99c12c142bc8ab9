package redisconn

import (
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// LinkOptions derives from the options of the user's client those of our
// links: one connection each, RESP3, no retries, and nothing that would
// write to the connection once it is ours.
func LinkOptions(user *redis.Options, timeout time.Duration) *redis.Options {
	o := *user
	o.Protocol = 3
	o.MaxRetries = -1
	o.DialerRetries = 1
	o.PoolSize, o.MinIdleConns, o.MaxActiveConns, o.PipelinePoolSize = 1, 0, 0, -1
	o.ReadTimeout, o.WriteTimeout, o.ContextTimeoutEnabled = timeout, timeout, true
	o.DisableIdentity = true
	o.Limiter = nil
	o.PushNotificationProcessor = nil // the user's would be shared
	o.ClientSideCache, o.ClientSideCacheConfig = nil, nil
	o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	return &o
}

// ClientOptions derives from the options of the user's client those of one of our
// own, which has several connections.
func ClientOptions(user *redis.Options) *redis.Options {
	o := *user
	o.MaxRetries = -1 // the caller decides whether to do it again
	o.DialerRetries = 1
	o.ContextTimeoutEnabled = true
	o.PoolSize = 4 // for batches, of which only a few run at a time
	o.MinIdleConns = 0
	o.MaxIdleConns = 0
	o.MaxActiveConns = 0
	o.PipelinePoolSize = -1
	o.PushNotificationProcessor = nil // the user's would be shared
	o.ClientSideCache = nil           // presence is read, not remembered
	o.ClientSideCacheConfig = nil
	o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	return &o
}

// NewClient returns a client whose connections are metered.
func NewClient(options *redis.Options) *redis.Client {
	client := redis.NewClient(options)
	client.AddHook(hook{})
	return client
}

// ClusterOptions does for a Cluster what ClientOptions does.
func ClusterOptions(user *redis.ClusterOptions) *redis.ClusterOptions {
	o := *user
	o.MaxRedirects = 1 // for a command that got an ASK
	o.ReadOnly = false // a replica may lack what has just been added
	o.RouteByLatency = false
	o.RouteRandomly = false
	o.DisableRoutingPolicies = true // no command of ours is for more than one node
	node := ClientOptions(&redis.Options{})
	o.MaxRetries = node.MaxRetries
	o.DialerRetries = node.DialerRetries
	o.ContextTimeoutEnabled = node.ContextTimeoutEnabled
	o.PoolSize = node.PoolSize
	o.MinIdleConns = node.MinIdleConns
	o.MaxIdleConns = node.MaxIdleConns
	o.MaxActiveConns = node.MaxActiveConns
	o.PipelinePoolSize = node.PipelinePoolSize
	o.PushNotificationProcessor = node.PushNotificationProcessor
	o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	return &o
}

// NewClusterClient returns a client of a Cluster whose connections are metered.
func NewClusterClient(options *redis.ClusterOptions) *redis.ClusterClient {
	client := redis.NewClusterClient(options)
	client.OnNewNode(func(node *redis.Client) { node.AddHook(hook{}) })
	return client
}
