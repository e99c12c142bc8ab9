package herald

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/heraldgo/herald/internal/backoff"
)

// A redisDialer opens one link after the other. One goroutine at a time uses
// it.
type redisDialer struct {
	way     *redisWay
	options *redis.Options // of a single Redis
	cluster *redisCluster  // or of a Cluster
	timeout time.Duration  // for an answer
	master  *redisMaster   // nil without Sentinels

	// On a Cluster.

	last   string // the address of the last attempt
	next   string // where a node has sent us
	failed string // the address of the last attempt, where it was none of these
}

// linkOptions derives from the options of the user's client those of our
// links: one connection each, RESP3, no retries, and nothing that would
// write to the connection once it is ours.
func linkOptions(user *redis.Options, timeout time.Duration) *redis.Options {
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

// maxHops is how often one dial goes where a node sends it.
const maxHops = 4

// dial opens a link to a master, on a Cluster to that of the slot. in is nil
// for a link that only publishes.
func (d *redisDialer) dial(ctx context.Context, in *redisInbound) (*redisLink, error) {
	for hops := 0; ; hops++ {
		options, err := d.find(ctx)
		if err != nil {
			return nil, err
		}
		l, err := d.open(ctx, options, in)
		d.tried(ctx, options.Addr, err)
		if err == nil || d.next == "" || hops == maxHops {
			return l, err
		}
	}
}

// open opens a link to one server.
func (d *redisDialer) open(ctx context.Context, options *redis.Options, in *redisInbound) (*redisLink, error) {
	ctx, cancel := context.WithTimeout(ctx, options.DialTimeout+d.timeout)
	defer cancel()
	conn, err := dialServer(ctx, options)
	if err != nil {
		return nil, err
	}
	client, err := session(ctx, conn, *options, d.checkServer)
	if err != nil {
		conn.Close()
		return nil, err
	}
	l := &redisLink{
		conn:    conn,
		server:  conn.RemoteAddr().String(),
		client:  client,
		timeout: d.timeout,
		in:      in,
		dead:    make(chan struct{}),
		ended:   make(chan struct{}),
	}
	go l.read()
	stop := context.AfterFunc(ctx, func() { l.fail(context.Cause(ctx)) })
	err = l.do(d.way.greeting()).err
	if stop(); err != nil {
		l.close(err)
		return nil, err
	}
	return l, nil
}

// dialServer dials a server, by way of the Sentinels if the options are theirs.
func dialServer(ctx context.Context, o *redis.Options) (conn net.Conn, err error) {
	err = calm(func() (err error) {
		conn, err = o.Dialer(ctx, o.Network, o.Addr)
		return err
	})
	return conn, dialError(err)
}

// session lets go-redis authenticate, select the database and run the user's
// OnConnect on conn. It dials nothing: a failed dial inside go-redis would be
// logged by it, at each attempt. What check says of the server, if it is not nil,
// is the error.
func session(ctx context.Context, conn net.Conn, o redis.Options, check serverCheck) (*redis.Client, error) {
	var dialed atomic.Bool
	o.Dialer = func(context.Context, string, string) (net.Conn, error) {
		if dialed.Swap(true) {
			return nil, errors.New("herald: a link has one connection")
		}
		return frank(conn), nil
	}
	client := redis.NewClient(&o)
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	err := calm(func() error {
		session := client.Conn()
		hello, err := session.Do(ctx, "HELLO", "3").Result()
		if err == nil && check != nil {
			err = check(ctx, session, hello)
		}
		return err
	})
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err == nil {
		err = conn.SetDeadline(time.Time{})
	}
	if err != nil {
		client.Close()
		return nil, err
	}
	return client, nil
}

// A serverCheck looks whether a server is the right one, by its answer to HELLO.
type serverCheck func(ctx context.Context, session *redis.Conn, hello any) error

func (d *redisDialer) checkServer(ctx context.Context, session *redis.Conn, hello any) error {
	prefix, _, _ := strings.Cut(d.way.prefix, "{")
	if d.way.slot == "" && isClusterNode(ctx, session, hello, prefix) {
		return errPlainClient
	}
	return nil
}

// errPlainClient is why a client of one server is refused that leads to a
// Cluster: there a failover, or another node's client, would go past it.
var errPlainClient = fmt.Errorf("%w: Redis: the server is a node of a Cluster: use a *redis.ClusterClient", ErrInvalid)

// isClusterNode says whether other nodes have keys that this one has not. One
// with all slots, which a proxy may seem to be, is as good as a single server;
// if keys are denied nobody can tell.
func isClusterNode(ctx context.Context, session *redis.Conn, hello any, prefix string) bool {
	fields, _ := hello.(map[any]any)
	if fields["mode"] != "cluster" {
		return false
	}
	for _, tag := range clusterTags {
		if _, moved := redis.IsMovedError(session.Exists(ctx, prefix+"{"+tag+"}").Err()); moved {
			return true
		}
	}
	return false
}

// The longest waits between attempts to connect. Calls wait for the next one,
// so they are short. On a Cluster other nodes than the one that failed tell
// when its slots have a new master.
const (
	singleBackoff  = time.Second
	clusterBackoff = 500 * time.Millisecond
)

func (d *redisDialer) backoff() backoff.Backoff {
	if d.cluster != nil {
		return backoff.Backoff{Max: clusterBackoff}
	}
	return backoff.Backoff{Max: singleBackoff}
}
