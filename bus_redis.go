package herald

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald/internal/history"
	"github.com/heraldgo/herald/internal/history/redislog"
	"github.com/heraldgo/herald/internal/history/store"
	"github.com/heraldgo/herald/internal/loan"
	"github.com/heraldgo/herald/internal/redisbus"
	"github.com/heraldgo/herald/internal/redisconn"
)

// RedisOptions configures what herald keeps in Redis. The zero value of each
// field has the default that its comment gives.
type RedisOptions struct {
	// Prefix begins every key and channel. Default "herald".
	Prefix string

	// ProbeInterval and ProbeTimeout are those of [Config]: each link to Redis
	// is proved healthy once an interval, and is dropped when it leaves an answer
	// out for ProbeTimeout. A negative interval switches proofs off. Defaults 1 s
	// and 5 s.
	ProbeInterval time.Duration
	ProbeTimeout  time.Duration
}

// conn returns the options for the packages that speak to Redis; o may be nil.
func (o *RedisOptions) conn() redisconn.Options {
	if o == nil {
		return redisconn.Options{}
	}
	return redisconn.Options(*o)
}

// A RedisBus is a [Bus] on Redis Pub/Sub, of Redis 6.2 or later.
//
// On a single Redis, or one that Sentinel watches, a topic is the channel
// <prefix>:{<database>}:<topic> of PUBLISH and SUBSCRIBE. On a Redis Cluster,
// from Redis 7 on, sixteen partitions share the topics; each is a slot, and a
// topic is the channel <prefix>:{<tag>}:<topic> of SPUBLISH and SSUBSCRIBE on
// the master of that slot. A partition whose slot is moved, or whose master
// fails, has a gap of its own: its events name the topics that the Bus was
// subscribed to in it. On a Cluster of an older Redis one slot's master
// carries all topics by PUBLISH and SUBSCRIBE.
//
// It has two connections of its own to each of these masters, one that publishes
// and one that is subscribed; partitions on the same master share them. go-redis
// dials them and opens the sessions, with the options of the client it was given,
// but not its hooks; from then on the RedisBus speaks RESP3 itself, because a
// reconnect that nobody sees, or a command that is sent twice, would break the
// Bus' promises. New credentials of a streaming provider are used from the next
// connection on.
//
// A link with more than 2,000 messages a second is not read for each message, but
// once in 1 to 4 ms, more rarely the later the machine is for what is due. So the
// messages share what it costs to be woken, and each may wait that long. Links
// over TLS are read for each message.
//
// With a client of NewFailoverClient it asks the Sentinels which server is the
// master, as often as it proves its links, and changes over to that server, even
// if the old one still calls itself master. On a third connection it also listens
// to which master each Sentinel names, on __sentinel__:hello. If no majority of
// the Sentinels that it has heard names its server for longer than ProbeTimeout
// (at least 5 s), that server may have been replaced. Then Health says so,
// Event.Since is as old as the majority's last word, and Publish returns
// ErrUnknown. A Bus that is opened while it sees a minority does not know of the
// other Sentinels.
type RedisBus struct {
	bus     *redisbus.Bus
	client  *redis.Client        // the caller's; nil for a Cluster
	cluster *redis.ClusterClient // the caller's, or nil
	options redisconn.Options
}

var _ Bus = (*RedisBus)(nil)

// NewRedisBus connects a Bus to the servers of rdb, which must be a *redis.Client
// (NewClient or NewFailoverClient) or a *redis.ClusterClient (NewClusterClient). opts may
// be nil. It tries all that the Bus needs. The error wraps ErrBusDown if Redis could not
// be reached, or refuses to serve, for instance because of a wrong password: that may
// pass. Other errors do not pass by themselves: if Redis denies a command, the error
// names what to allow; and a client of one server must not lead to a node of a Cluster.
// rdb is left as it is, and must not be closed before the Bus.
//
// On a Cluster the number of partitions is kept under the key
// <prefix>:{partitions}. If that is not a number that this version of herald
// knows, the error names both.
func NewRedisBus(rdb redis.UniversalClient, opts *RedisOptions) (*RedisBus, error) {
	bus, err := redisbus.New(rdb, opts.conn())
	if err != nil {
		return nil, err
	}
	client, cluster, _ := redisconn.ClientOf(rdb) // New has checked it,
	options, _ := opts.conn().WithDefaults()      // and these
	return &RedisBus{bus, client, cluster, options}, nil
}

// keep implements keeper. The logs have connections of their own.
func (b *RedisBus) keep(ctx context.Context, fences string, limits store.Limits) (*logs, error) {
	l := &logs{}
	rdb, client := b.openLogs(l)
	shards, prefix := b.bus.Shards(), b.options.Prefix
	l.fences = fenceTopics(fences, len(shards))
	copies := redislog.NewBudget(copiedBytes)
	all := prefix + ":{log}:" // begins all keys
	key, err := sharedKey(ctx, rdb, all+"key")
	l.key = key
	if b.cluster != nil {
		all = prefix + ":{"
	}
	for i, s := range shards {
		keys := prefix + ":{log}:"
		if s.Slot != "" {
			keys = s.Slot + ":log:"
		}
		log := redislog.New(redislog.Config{
			Client: client(keys), Limits: limits, Keys: keys,
			Topics: s.Topics, Fences: s.Topics + l.fences[i], Sharded: s.Sharded, Cluster: b.cluster != nil,
			Copies: copies,
		})
		l.parts = append(l.parts, log)
		if err == nil {
			_, err = log.Survey(ctx, history.Point{}, history.Point{}, nil, 0)
		}
	}
	if err == nil {
		return l, nil
	}
	l.close()
	// Redis 7 denies a command within a script in words, without the code.
	if redisconn.Replied(err, "NOPERM") || strings.Contains(err.Error(), "can't run this command") {
		return nil, fmt.Errorf("herald: Redis denies what the log needs: allow EVAL, EVALSHA and what its scripts use, with the keys %s* and the channels of the Bus "+
			"(ACL SETUSER <user> +eval +evalsha +get +set +exists +pexpire +time +info +unlink +xadd +xdel +xrange +zadd +zcount +zmscore +zrange +zrem +zremrangebyrank +zscore ~%s*): %w", all, all, err)
	}
	return nil, fmt.Errorf("%w: %w", ErrBusDown, err)
}

// copiedBytes is the most memory that a node uses for what many clients come back to.
const copiedBytes = 64 << 20

// openLogs opens the connections of the logs. client returns what runs the scripts of
// the log that has the keys.
func (b *RedisBus) openLogs(l *logs) (rdb redis.Cmdable, client func(keys string) redislog.Client) {
	if b.cluster != nil {
		o := redisconn.ClusterOptions(b.cluster.Options())
		o.ReadTimeout = max(o.ReadTimeout, 5*time.Second) // a large page needs it; the look-up of the masters has no other timeout
		cluster := redisconn.NewClusterClient(o)
		l.renew = func() { cluster.ReloadState(context.Background()) } // does not wait
		l.close = func() { cluster.Close() }
		return cluster, func(keys string) redislog.Client { return redisconn.NewSlotScripter(cluster, keys) }
	}
	o := redisconn.ClientOptions(b.client.Options())
	o.ReadTimeout, o.WriteTimeout = -1, -1 // each call has a deadline: a page may take longer than a command
	only := redisconn.NewScripter(o)
	l.renew, l.close = func() {}, only.Close
	if redisconn.NewMaster(b.client.Options(), b.options.ProbeTimeout) != nil {
		l.renew = only.Renew // a master that was replaced answers for a while
	}
	return only.Client(), func(string) redislog.Client { return only }
}

// sharedKey returns the key that all nodes sign ids with, and makes it if there is
// none.
func sharedKey(ctx context.Context, client redis.Cmdable, name string) ([]byte, error) {
	if err := client.SetNX(ctx, name, rand.Text(), 0).Err(); err != nil {
		return nil, err
	}
	return client.Get(ctx, name).Bytes()
}

// Publish publishes packets, each with one PUBLISH or SPUBLISH, and waits for the
// replies. Calls that come while others are under way go out together. If a link has
// broken, Publish waits for the next attempt to connect, which is a second away at most,
// and returns ErrBusDown if that fails. Packets of several partitions go out at the same
// time.
func (b *RedisBus) Publish(ctx context.Context, packets ...Packet) error {
	return redisbus.Publish(ctx, b.bus, packets)
}

// Subscribe subscribes to topics and waits for the confirmations. While Redis
// cannot be reached it waits for the next link.
func (b *RedisBus) Subscribe(ctx context.Context, topics ...string) error {
	return b.bus.Subscribe(ctx, topics)
}

// Unsubscribe is the opposite of Subscribe, and waits in the same way.
func (b *RedisBus) Unsubscribe(ctx context.Context, topics ...string) error {
	return b.bus.Unsubscribe(ctx, topics)
}

// Receive returns the next event.
func (b *RedisBus) Receive(ctx context.Context) (Event, error) {
	e, err := b.bus.Receive(ctx)
	return Event{Kind: EventKind(e.Kind), Packet: Packet(e.Packet), Topics: e.Topics, Since: e.Since, Err: e.Err, hidden: e.Hidden}, err
}

// receiveLent is Receive for the Hub, which releases the packet's memory when it is done
// with it.
func (b *RedisBus) receiveLent(ctx context.Context) (Event, *loan.Buffer, error) {
	e, err := b.bus.Receive(ctx)
	return Event{Kind: EventKind(e.Kind), Packet: Packet(e.Packet), Topics: e.Topics, Since: e.Since, Err: e.Err, hidden: e.Hidden}, e.Loan, err
}

// elsewhere returns the other prefixes and databases in which somebody follows the topic.
func (b *RedisBus) elsewhere(ctx context.Context, topic string) ([]string, error) {
	if b.cluster != nil {
		return b.bus.Elsewhere(ctx, b.cluster, topic)
	}
	return b.bus.Elsewhere(ctx, b.client, topic)
}

// Reset drops all links.
func (b *RedisBus) Reset() { b.bus.Reset() }

// Health returns nil while all links are up and proved healthy; otherwise it says
// why one is not.
func (b *RedisBus) Health() error { return b.bus.Health() }

// Close closes all links and waits for the Bus' goroutines.
func (b *RedisBus) Close() error {
	b.bus.Close()
	return nil
}
