package herald

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald/internal/inbox"
)

// RedisOptions configures what herald keeps in Redis. The zero value of each
// field has the default that its comment gives.
type RedisOptions struct {
	// Prefix begins every key and channel. Default "herald".
	Prefix string

	// ProbeInterval and ProbeTimeout are those of [Config]: each link to Redis
	// is proved healthy ten times an interval, at most ten times a second, and
	// is dropped when it leaves an answer out for ProbeTimeout. A negative
	// interval switches proofs off. Defaults 10 s and 5 s.
	ProbeInterval time.Duration
	ProbeTimeout  time.Duration
}

// numberedPrefix matches prefixes whose channels could be those of another
// prefix: a number after ':' would pass for the database's.
var numberedPrefix = regexp.MustCompile(`:[0-9]+(:|$)`)

func validPrefix(prefix string) bool {
	return !strings.ContainsAny(prefix, "{}") && !numberedPrefix.MatchString(prefix)
}

// singleRedis returns the client of one Redis that rdb is.
func singleRedis(rdb redis.UniversalClient) (*redis.Client, error) {
	client, ok := rdb.(*redis.Client)
	switch {
	case !ok:
		return nil, fmt.Errorf("%w: Redis: a %T: must be a *redis.Client, from NewClient or NewFailoverClient; Cluster and Ring are not supported", ErrInvalid, rdb)
	case client == nil:
		return nil, fmt.Errorf("%w: Redis: a nil *redis.Client", ErrInvalid)
	}
	return client, nil
}

// withDefaults returns a copy with every field set; o may be nil.
func (o *RedisOptions) withDefaults() (RedisOptions, error) {
	var c RedisOptions
	if o != nil {
		c = *o
	}
	c.Prefix = cmp.Or(c.Prefix, "herald")
	c.ProbeInterval = cmp.Or(c.ProbeInterval, 10*time.Second)
	c.ProbeTimeout = cmp.Or(c.ProbeTimeout, 5*time.Second)
	if c.ProbeInterval < 0 {
		c.ProbeInterval = off
	}
	var faults []error
	if !validPrefix(c.Prefix) {
		faults = append(faults, fmt.Errorf("%w: RedisOptions.Prefix: %q: must not contain '{', '}', or a number after ':'", ErrInvalid, c.Prefix))
	}
	if c.ProbeTimeout < time.Millisecond {
		faults = append(faults, fmt.Errorf("%w: RedisOptions.ProbeTimeout: %v: must be at least 1ms", ErrInvalid, c.ProbeTimeout))
	}
	return c, errors.Join(faults...)
}

// A RedisBus is a [Bus] on Redis PUBLISH and SUBSCRIBE, of Redis 6.2 or
// later. A topic is the channel <prefix>:<database>:<topic>.
//
// It has two connections of its own, one that publishes and one that is
// subscribed. go-redis dials them and opens the sessions, with the options
// of the client it was given, but not its hooks; from then on the RedisBus
// speaks RESP3 itself, because a reconnect that nobody sees, or a command
// that is sent twice, would break the Bus' promises. New credentials of a
// streaming provider are used from the next connection on.
//
// With a client of NewFailoverClient it asks the Sentinels, as often as it
// proves its links, which server is the master, and changes over to that,
// though its own may call itself master still. While no Sentinel answers it
// stays, and Event.Since is as old as their last answer.
type RedisBus struct {
	prefix string // of channels
	dialer *redisDialer
	inbox  *inbox.Inbox[Event]
	pub    *redisPublisher
	sub    *redisSubscriber

	cancel    context.CancelFunc
	running   sync.WaitGroup // run of sub, probe, and follow
	closeOnce sync.Once

	nonce uint64 // of the last probe; probe's own

	mu       sync.Mutex
	unproved error // why the last probe failed
}

var _ Bus = (*RedisBus)(nil)

// NewRedisBus connects a Bus to the server of rdb, which must be a
// *redis.Client (NewClient or NewFailoverClient). opts may be nil. It tries
// all that the Bus needs: an error that Redis denies a command names what to
// allow, and one for which errors.Is ErrBusDown holds says that Redis could
// not be reached. rdb is left as it is, and must not be closed before the Bus.
func NewRedisBus(rdb redis.UniversalClient, opts *RedisOptions) (*RedisBus, error) {
	options, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	client, err := singleRedis(rdb)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	db := strconv.Itoa(client.Options().DB)
	prefix := options.Prefix + ":" + db
	moved := movedChannel(options.Prefix, db)
	dialer := newRedisDialer(client.Options(), options.ProbeTimeout)
	in := newInbox()
	b := &RedisBus{
		prefix: prefix + ":",
		dialer: dialer,
		inbox:  in,
		pub:    newRedisPublisher(ctx, dialer, moved),
		// No topic's channel is like the probe's: a number follows the prefix.
		sub:    newRedisSubscriber(ctx, dialer, in, prefix+":", options.Prefix+":!"+rand.Text(), moved),
		cancel: cancel,
	}
	if err := b.open(ctx, options); err != nil {
		b.Close()
		return nil, err
	}
	tick := max(options.ProbeInterval/10, 100*time.Millisecond)
	b.running.Go(func() { b.probe(ctx, tick, options.ProbeTimeout) })
	if dialer.master != nil {
		b.running.Go(func() { b.follow(ctx, tick) })
	}
	return b, nil
}

// open connects both links and tries what the Bus needs.
func (b *RedisBus) open(ctx context.Context, options RedisOptions) error {
	err := b.sub.connect()
	if err == nil {
		link := b.sub.current()
		b.running.Go(b.sub.run)
		ctx, cancel := context.WithTimeout(ctx, 2*options.ProbeTimeout)
		defer cancel()
		err = b.sub.change(ctx, commandUnsubscribe, []string{rand.Text()})
		if err == nil {
			err = b.loop(ctx, link, options.ProbeTimeout)
		}
	}
	if err == nil {
		return nil
	}
	if refused, ok := errors.AsType[redisError](err); ok && strings.HasPrefix(string(refused), "NOPERM") {
		return fmt.Errorf("herald: Redis denies what the Bus needs: allow PUBLISH, SUBSCRIBE and UNSUBSCRIBE, with the channels %s:* "+
			"(ACL SETUSER <user> +publish +subscribe +unsubscribe &%s:*): %w", options.Prefix, options.Prefix, refused)
	}
	if _, ok := errors.AsType[redis.Error](err); ok {
		return fmt.Errorf("herald: Redis refuses the connection: %w", err)
	}
	return fmt.Errorf("%w: %w", ErrBusDown, err)
}

// maxPublish is how much of a large call of Publish goes out together.
const (
	maxPublishItems = 1024
	maxPublishBytes = 1 << 20
)

// Publish publishes packets, each with one PUBLISH, and waits for the replies.
// Calls that come while others are under way go out together. Where the link
// has broken it waits for an attempt to connect; after a failed one, until
// the backoff is over, it returns ErrBusDown at once.
func (b *RedisBus) Publish(ctx context.Context, packets ...Packet) error {
	for sent := 0; sent < len(packets); {
		p := newPublication()
		for sent < len(packets) && p.commands < maxPublishItems && (p.commands == 0 || len(p.bytes) < maxPublishBytes) {
			p.add(b.prefix, packets[sent])
			sent++
		}
		first := sent == p.commands
		if err := b.pub.publish(ctx, p); err != nil {
			if !first && !errors.Is(err, ErrUnknown) {
				err = fmt.Errorf("%w: part of the packets: %w", ErrUnknown, err)
			}
			return fmt.Errorf("publish: %w", err)
		}
	}
	return nil
}

// Subscribe subscribes to topics and waits for the confirmations. While Redis
// cannot be reached it waits for the next link.
func (b *RedisBus) Subscribe(ctx context.Context, topics ...string) error {
	if err := b.sub.change(ctx, commandSubscribe, topics); err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	return nil
}

// Unsubscribe is the opposite of Subscribe, and waits as that does.
func (b *RedisBus) Unsubscribe(ctx context.Context, topics ...string) error {
	if err := b.sub.change(ctx, commandUnsubscribe, topics); err != nil {
		return fmt.Errorf("unsubscribe: %w", err)
	}
	return nil
}

// Receive returns the next event.
func (b *RedisBus) Receive(ctx context.Context) (Event, error) { return b.inbox.Receive(ctx) }

// Reset drops both links.
func (b *RedisBus) Reset() { b.drop(errReset) }

func (b *RedisBus) drop(why error) {
	b.sub.drop(why)
	b.pub.drop(why)
}

// Health returns nil while both links are up and proved healthy, and else
// why not.
func (b *RedisBus) Health() error {
	b.mu.Lock()
	err := b.unproved
	b.mu.Unlock()
	return cmp.Or(b.sub.health(), b.pub.health(), err)
}

// Close closes both links and waits for the Bus' goroutines.
func (b *RedisBus) Close() error {
	b.closeOnce.Do(func() {
		b.cancel()
		b.drop(ErrClosed)
		b.running.Wait()
		b.pub.close()
		b.sub.close()
		b.inbox.Close(ErrClosed)
	})
	return nil
}
