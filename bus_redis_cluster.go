package herald

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald/internal/redisconn"
)

// classicPartitions is how many there are on a Cluster without SPUBLISH.
const classicPartitions = 1

// newClusterBus connects a Bus to a Cluster in the way that its nodes have
// agreed on, or, the first time, in the best that it knows.
func newClusterBus(client *redis.ClusterClient, options redisconn.Options) (*RedisBus, error) {
	own := redisconn.NewClusterClient(redisconn.ClusterOptions(client.Options()))
	nodes := &redisCluster{client: own, masters: make(map[string]struct{})}
	bus, err := nodes.open(options)
	if err != nil {
		own.Close()
		return nil, err
	}
	bus.nodes = own
	return bus, nil
}

// open connects a Bus to the nodes.
func (c *redisCluster) open(options redisconn.Options) (*RedisBus, error) {
	connect := func(ways ...*redisWay) (*RedisBus, error) {
		return newRedisBus(options, ways, func(way *redisWay) *redisDialer {
			return &redisDialer{way: way, cluster: c, timeout: options.ProbeTimeout}
		})
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*options.ProbeTimeout)
	defer cancel()
	agreed := agreement{c.client, options.Prefix + ":{partitions}"}
	n, err := agreed.read(ctx)
	ways := clusterWays(options.Prefix, true)
	for err == nil {
		ways = clusterWays(options.Prefix, n != classicPartitions)
		var bus *RedisBus
		bus, err = connect(ways...)
		switch unknown := redisconn.Replied(err, "ERR unknown command"); {
		case unknown && n == 0:
			n, err = classicPartitions, nil
			continue
		case unknown:
			return nil, fmt.Errorf("%w: Redis: the nodes on this Cluster have agreed on %d partitions (key %s), and a server cannot do that: %w", ErrInvalid, n, agreed.key, err)
		case redisconn.Replied(err, "ERR This instance has cluster support disabled"): // NewFailoverClusterClient
			ways = []*redisWay{singleWay(options.Prefix, 0)}
			bus, err = connect(ways...)
			n = len(ways)
		case err == nil:
			n, err = agreed.settle(ctx, len(ways))
		}
		if err == nil && n == len(ways) {
			return bus, nil
		}
		if bus != nil {
			bus.Close() // another node was faster, and chose the other way
		}
	}
	return nil, openError(err, options.Prefix, ways[0])
}

// clusterWays returns the ways of all partitions on a Cluster.
func clusterWays(prefix string, sharded bool) []*redisWay {
	tags := redisconn.Tags
	if !sharded {
		tags = tags[:classicPartitions]
	}
	ways := make([]*redisWay, len(tags))
	for i, tag := range tags {
		ways[i] = clusterWay(prefix, tag, sharded)
	}
	return ways
}

// An agreement is a key under which the nodes keep how many partitions there
// are. It stays when they have gone.
type agreement struct {
	client *redis.ClusterClient
	key    string
}

// read returns the number agreed on, or 0 if there is none yet. What is no
// number of partitions is none of herald's.
func (a agreement) read(ctx context.Context) (int, error) {
	value, err := a.client.Get(ctx, a.key).Result()
	switch {
	case errors.Is(err, redis.Nil), redisconn.IsWrongType(err):
		return 0, nil
	case err != nil:
		return 0, fmt.Errorf("read %s: %w", a.key, err)
	}
	n := redisconn.AgreedNumber(value)
	if n != 0 && n != classicPartitions && n != len(redisconn.Tags) {
		return 0, fmt.Errorf("%w: Redis: the nodes on this Cluster have agreed on %q partitions (key %s), and this version of herald knows %d, or %d without SPUBLISH",
			ErrInvalid, value, a.key, len(redisconn.Tags), classicPartitions)
	}
	return n, nil
}

// settle writes n where there is no number yet, and returns the number agreed
// on.
func (a agreement) settle(ctx context.Context, n int) (int, error) {
	err := a.client.SetNX(ctx, a.key, n, 0).Err()
	if err == nil {
		var agreed int
		if agreed, err = a.read(ctx); err != nil || agreed != 0 {
			return agreed, err
		}
		err = a.client.Set(ctx, a.key, n, 0).Err() // in the place of somebody else's
	}
	if err != nil {
		return 0, fmt.Errorf("write %s: %w", a.key, err)
	}
	return a.read(ctx)
}

// split deals items out to the partitions of their topics, in their order.
func split[T any](items []T, n int, topic func(T) string) [][]T {
	parts := make([][]T, n)
	for _, item := range items {
		i := redisconn.ShardOf(topic(item), n)
		parts[i] = append(parts[i], item)
	}
	return parts
}

// publish publishes packets in their partitions, to all at the same time.
func (b *RedisBus) publish(ctx context.Context, packets []Packet) error {
	switch {
	case len(packets) == 0:
		return nil
	case len(b.parts) == 1:
		return b.parts[0].publish(ctx, packets)
	case len(packets) == 1:
		return b.parts[redisconn.ShardOf(packets[0].Topic, len(b.parts))].publish(ctx, packets)
	}
	errs := make([]error, len(b.parts))
	taken := false // by any partition
	parts := split(packets, len(b.parts), func(p Packet) string { return p.Topic })
	var publishing sync.WaitGroup
	for i, packets := range parts {
		if len(packets) > 0 {
			publishing.Go(func() { errs[i] = b.parts[i].publish(ctx, packets) })
		}
	}
	publishing.Wait()
	for i, packets := range parts {
		taken = taken || len(packets) > 0 && errs[i] == nil
	}
	err := joinTexts(errs)
	if err != nil && taken {
		err = inPart(err)
	}
	return err
}

// change subscribes to topics, or unsubscribes, in all their partitions at the
// same time.
func (b *RedisBus) change(ctx context.Context, kind commandKind, topics []string) error {
	if len(b.parts) == 1 {
		return b.parts[0].sub.change(ctx, kind, topics)
	}
	if len(topics) == 1 {
		return b.parts[redisconn.ShardOf(topics[0], len(b.parts))].sub.change(ctx, kind, topics)
	}
	errs := make([]error, len(b.parts))
	var changing sync.WaitGroup
	for i, topics := range split(topics, len(b.parts), func(t string) string { return t }) {
		if len(topics) > 0 {
			changing.Go(func() { errs[i] = b.parts[i].sub.change(ctx, kind, topics) })
		}
	}
	changing.Wait()
	return joinTexts(errs)
}

// joinTexts joins errors, those with the same text once: partitions mostly fail
// together.
func joinTexts(errs []error) error {
	var different []error
	for _, err := range errs {
		if err != nil && !slices.ContainsFunc(different, func(e error) bool { return e.Error() == err.Error() }) {
			different = append(different, err)
		}
	}
	return errors.Join(different...)
}
