package redisbus

import (
	"context"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald/internal/backoff"
	"github.com/heraldgo/herald/internal/redisconn"
)

// A dialer opens one link after the other. One goroutine at a time uses
// it.
type dialer struct {
	way     *way
	options *redis.Options    // of the server, if cluster is nil
	cluster *cluster          // nil on a single Redis
	timeout time.Duration     // for an answer
	master  *redisconn.Master // nil without Sentinels

	// On a Cluster.

	trunks *trunks // if there are several partitions
	last   string  // the address of the last attempt
	next   string  // the address that a node has named with MOVED
	failed string  // the address that failed last; "" after a success
}

// maxHops is how many MOVEDs one dial, or one publish, follows.
const maxHops = 4

// dial opens a link to the master, on a Cluster to that of the slot. sub is nil for a
// link that only publishes.
func (d *dialer) dial(ctx context.Context, sub *subscriber) (*link, error) {
	for hops := 0; ; hops++ {
		options, err := d.find(ctx)
		if err != nil {
			return nil, err
		}
		l, err := d.open(ctx, options, sub)
		d.tried(ctx, options.Addr, err)
		if err == nil || d.next == "" || hops == maxHops {
			return l, err
		}
	}
}

// open opens a link to one server.
func (d *dialer) open(ctx context.Context, options *redis.Options, sub *subscriber) (*link, error) {
	closing := ctx
	ctx, cancel := context.WithTimeout(ctx, options.DialTimeout+d.timeout)
	defer cancel()
	var l *link
	for l == nil {
		t, err := d.trunk(ctx, options, sub)
		if err != nil {
			return nil, err
		}
		l = t.add(sub) // nil if the trunk has died meanwhile
	}
	end := ctx
	if d.trunks != nil {
		end = closing // a greeting may wait behind other partitions' messages, which is no reason to end their trunk
	}
	stop := context.AfterFunc(end, func() { l.fail(context.Cause(end)) })
	err := l.do(d.way.greeting()).err
	if stop(); err != nil {
		l.close(err)
		return nil, err
	}
	return l, nil
}

// trunk returns a connection to a server. If there are several partitions, they share
// it.
func (d *dialer) trunk(ctx context.Context, options *redis.Options, sub *subscriber) (*trunk, error) {
	if d.trunks == nil {
		return d.connect(ctx, options, sub)
	}
	return d.trunks.get(ctx, trunkKey{options.Addr, sub != nil}, func() (*trunk, error) {
		return d.connect(ctx, options, sub)
	})
}

func (d *dialer) connect(ctx context.Context, options *redis.Options, sub *subscriber) (*trunk, error) {
	conn, err := redisconn.Dial(ctx, options)
	if err != nil {
		return nil, err
	}
	client, err := redisconn.Session(ctx, conn, *options, d.checkServer)
	if err != nil {
		conn.Close()
		return nil, err
	}
	t := newTrunk(conn, d.timeout)
	t.client, t.shared = client, d.trunks != nil
	if sub != nil {
		t.intake = &intake{inbox: sub.inbox, proofs: sub.proofs}
	} else if t.shared {
		t.lane = newLane(t)
	}
	go t.run()
	return t, nil
}

func (d *dialer) checkServer(ctx context.Context, session *redis.Conn, hello any) error {
	prefix, _, _ := strings.Cut(d.way.prefix, "{")
	if d.way.slot == "" && isClusterNode(ctx, session, hello, prefix) {
		return redisconn.ErrClusterNode
	}
	return nil
}

// isClusterNode reports whether the server is a node of a Cluster that lacks some slots.
// A node with all slots, as a proxy may seem to be, is as good as a single server. If
// the user may not read keys, nobody can tell, and the answer is false.
func isClusterNode(ctx context.Context, session *redis.Conn, hello any, prefix string) bool {
	fields, _ := hello.(map[any]any)
	if fields["mode"] != "cluster" {
		return false
	}
	for _, tag := range redisconn.Tags {
		if _, moved := redis.IsMovedError(session.Exists(ctx, prefix+"{"+tag+"}").Err()); moved {
			return true
		}
	}
	return false
}

// The longest pauses between attempts to connect. They are short because calls wait
// for the next attempt. On a Cluster it asks a node other than the one that failed,
// which soon knows the slot's new master.
const (
	singleBackoff  = time.Second
	clusterBackoff = 500 * time.Millisecond
)

func (d *dialer) backoff() backoff.Backoff {
	if d.cluster != nil {
		return backoff.Backoff{Max: clusterBackoff}
	}
	return backoff.Backoff{Max: singleBackoff}
}
