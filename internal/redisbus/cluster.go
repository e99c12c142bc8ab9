package redisbus

import (
	"context"
	"errors"
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald/internal/errs"
	"github.com/heraldgo/herald/internal/redisconn"
)

// classicPartitions is the number of partitions on a Cluster without SPUBLISH.
const classicPartitions = 1

// newClusterBus connects a Bus to a Cluster with the number of partitions that its
// nodes have agreed on. If there is no agreement yet, it chooses the best that the
// servers support.
func newClusterBus(client *redis.ClusterClient, options redisconn.Options) (*Bus, error) {
	own := redisconn.NewClusterClient(redisconn.ClusterOptions(client.Options()))
	nodes := &cluster{client: own, masters: make(map[string]struct{})}
	bus, err := nodes.open(options)
	if err != nil {
		own.Close()
		return nil, err
	}
	bus.nodes = own
	return bus, nil
}

// open connects a Bus, again if another node chooses a different number meanwhile.
func (c *cluster) open(options redisconn.Options) (*Bus, error) {
	try := func(ways ...*way) (*Bus, error) {
		var shared *trunks
		if len(ways) > 1 {
			shared = newTrunks()
		}
		return connect(options, ways, func(w *way) *dialer {
			return &dialer{way: w, cluster: c, trunks: shared, timeout: options.ProbeTimeout}
		})
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*options.ProbeTimeout)
	defer cancel()
	agreed := agreement{c.client, options.Prefix + ":{partitions}"}
	n, err := agreed.read(ctx)
	ways := clusterWays(options.Prefix, true)
	for err == nil {
		ways = clusterWays(options.Prefix, n != classicPartitions)
		var bus *Bus
		bus, err = try(ways...)
		switch unknown := redisconn.Replied(err, "ERR unknown command"); {
		case unknown && n == 0:
			n, err = classicPartitions, nil
			continue
		case unknown:
			return nil, fmt.Errorf("%w: Redis: the nodes on this Cluster have agreed on %d partitions (key %s), and a server cannot do that: %w", errs.Invalid, n, agreed.key, err)
		case redisconn.Replied(err, "ERR This instance has cluster support disabled"): // NewFailoverClusterClient
			ways = []*way{singleWay(options.Prefix, 0)}
			bus, err = try(ways...)
			n = len(ways)
		case err == nil:
			n, err = agreed.settle(ctx, len(ways))
		}
		if err == nil && n == len(ways) {
			return bus, nil
		}
		if bus != nil {
			bus.Close() // another node was faster, and chose the other number
		}
	}
	return nil, openError(err, options.Prefix, ways[0])
}

// clusterWays returns the ways of all partitions on a Cluster.
func clusterWays(prefix string, sharded bool) []*way {
	tags := redisconn.Tags
	if !sharded {
		tags = tags[:classicPartitions]
	}
	ways := make([]*way, len(tags))
	for i, tag := range tags {
		ways[i] = clusterWay(prefix, tag, sharded)
	}
	return ways
}

// An agreement is the key that holds the number of partitions. It outlives the nodes
// that have agreed on it.
type agreement struct {
	client *redis.ClusterClient
	key    string
}

// read returns the number agreed on, or 0 if there is none yet. A value that is no
// number was not written by herald, and counts as none.
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
			errs.Invalid, value, a.key, len(redisconn.Tags), classicPartitions)
	}
	return n, nil
}

// settle writes n if there is no number yet, and returns the number agreed
// on.
func (a agreement) settle(ctx context.Context, n int) (int, error) {
	err := a.client.SetNX(ctx, a.key, n, 0).Err()
	if err == nil {
		var agreed int
		if agreed, err = a.read(ctx); err != nil || agreed != 0 {
			return agreed, err
		}
		err = a.client.Set(ctx, a.key, n, 0).Err() // replaces a value that is not herald's
	}
	if err != nil {
		return 0, fmt.Errorf("write %s: %w", a.key, err)
	}
	return a.read(ctx)
}
