// Package redisbus implements the Bus of package herald on Redis Pub/Sub. Its
// promises are documented there, at RedisBus.
package redisbus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald/internal/errs"
	"github.com/heraldgo/herald/internal/inbox"
	"github.com/heraldgo/herald/internal/redisconn"
)

// A Bus is the implementation of herald.RedisBus.
type Bus struct {
	parts []*partition
	inbox *inbox.Inbox[Event]
	nodes *redis.ClusterClient // knows the masters of a Cluster; nil if there is none

	cancel    context.CancelFunc
	running   sync.WaitGroup // the goroutines that connect subscribers and prove links
	closeOnce sync.Once
}

// New connects a Bus to the servers of rdb.
func New(rdb redis.UniversalClient, options redisconn.Options) (*Bus, error) {
	options, err := options.WithDefaults()
	if err != nil {
		return nil, err
	}
	client, cluster, err := redisconn.ClientOf(rdb)
	if err != nil {
		return nil, err
	}
	if cluster != nil {
		return newClusterBus(cluster, options)
	}
	only, master := singleWay(options.Prefix, client.Options().DB), redisconn.NewMaster(client.Options(), options.ProbeTimeout)
	b, err := connect(options, []*way{only}, func(w *way) *dialer {
		return &dialer{way: w, options: redisconn.LinkOptions(client.Options(), options.ProbeTimeout), timeout: options.ProbeTimeout, master: master}
	})
	if err != nil {
		return nil, openError(err, options.Prefix, only)
	}
	return b, nil
}

// connect connects a Bus that has one partition for each way. The caller passes an
// error on to openError.
func connect(options redisconn.Options, ways []*way, newDialer func(*way) *dialer) (*Bus, error) {
	ctx, cancel := context.WithCancel(context.Background())
	b := &Bus{inbox: newInbox(), cancel: cancel}
	proofs := newProofs(len(ways), ways[0].slot != "")
	for i, w := range ways {
		alive := make(chan struct{}, 1)
		b.parts = append(b.parts, &partition{
			way: w,
			pub: newPublisher(ctx, newDialer(w), alive),
			sub: newSubscriber(ctx, newDialer(w), alive, b.inbox, proofs, i),
		})
	}
	err := b.open(ctx, options)
	if master := b.parts[0].pub.dialer.master; err == nil && master != nil {
		err = master.Open(ctx)
	}
	if err != nil {
		b.Close()
		return nil, err
	}
	for _, p := range b.parts {
		if options.ProbeInterval != redisconn.Off {
			b.running.Go(func() { p.prove(ctx, options.ProbeInterval, options.ProbeTimeout) })
		}
		if p.pub.dialer.master != nil {
			b.running.Go(func() { p.followMaster(ctx, min(options.ProbeInterval, redisconn.SentinelLag/2)) })
		}
	}
	return b, nil
}

// open connects all links and tries what the Bus needs.
func (b *Bus) open(ctx context.Context, options redisconn.Options) error {
	results := make([]error, len(b.parts))
	var opening sync.WaitGroup
	for i, p := range b.parts {
		opening.Go(func() {
			results[i] = p.open(ctx, &b.running, options.ProbeTimeout, options.ProbeInterval != redisconn.Off)
		})
	}
	opening.Wait()
	return cmp.Or(results...)
}

// openError turns an error of connect into one that tells the user what to do.
func openError(err error, prefix string, w *way) error {
	said, ok := errors.AsType[redisconn.Error](err)
	if reply, byClient := errors.AsType[redis.Error](err); byClient {
		said, ok = redisconn.Error(reply.Error()), true
	}
	switch {
	case errors.Is(err, errs.Invalid):
		return err
	case errors.Is(err, redisconn.ErrHelloDenied):
		return fmt.Errorf("herald: Redis denies what the Bus needs: %w", err)
	case ok && strings.HasPrefix(string(said), "NOPERM"):
		return fmt.Errorf("herald: Redis denies what the Bus needs: %s: %w", w.needs(prefix), said)
	case ok && !redisconn.IsRefusal(string(said)):
		return fmt.Errorf("herald: Redis cannot do what the Bus needs: %w", said)
	}
	return fmt.Errorf("%w: %w", errs.BusDown, err)
}

// Bounds of what is published in one write. A call with a larger packet shares its
// write with no other call: Redis may refuse the packet and close the connection
// (proto-max-bulk-len, which is never less than maxPublishBytes).
const (
	maxPublishItems = 1024
	maxPublishBytes = 1 << 20
)

// Publish publishes packets. It is a function because a method has no type
// parameters, and a []herald.Packet is not a []Packet.
func Publish[P packet](ctx context.Context, b *Bus, packets []P) error {
	if err := publish(ctx, b, packets); err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	return nil
}

// Subscribe subscribes to topics.
func (b *Bus) Subscribe(ctx context.Context, topics []string) error {
	if err := b.change(ctx, commandSubscribe, topics); err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	return nil
}

// Unsubscribe is the opposite of Subscribe.
func (b *Bus) Unsubscribe(ctx context.Context, topics []string) error {
	if err := b.change(ctx, commandUnsubscribe, topics); err != nil {
		return fmt.Errorf("unsubscribe: %w", err)
	}
	return nil
}

// Receive returns the next event.
func (b *Bus) Receive(ctx context.Context) (Event, error) { return b.inbox.Receive(ctx) }

// Reset drops all links.
func (b *Bus) Reset() { b.drop(errReset) }

func (b *Bus) drop(why error) {
	for _, p := range b.parts {
		p.drop(why)
	}
}

// Health returns nil while all links are up and proved healthy; otherwise it says
// why one is not.
func (b *Bus) Health() error {
	for _, p := range b.parts {
		if err := p.health(); err != nil {
			return err
		}
	}
	return nil
}

// Close closes all links and waits for the Bus' goroutines.
func (b *Bus) Close() {
	b.closeOnce.Do(func() {
		b.cancel()
		b.drop(errs.Closed)
		b.running.Wait()
		for _, p := range b.parts {
			p.close()
		}
		if b.nodes != nil {
			b.nodes.Close()
		}
		b.inbox.Close(errs.Closed)
	})
}
