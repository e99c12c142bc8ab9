package redisbus

import (
	"context"
	"slices"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"
)

// Elsewhere returns, in words, the prefixes and databases other than this Bus' own
// under which somebody is subscribed to the topic on the servers of rdb. To find them
// Redis scans all its channels.
func (b *Bus) Elsewhere(ctx context.Context, rdb redis.UniversalClient, topic string) ([]string, error) {
	pattern := "*:{*}:" + globs.Replace(topic)
	channels, err := channelsLike(ctx, rdb, pattern, b.parts[0].way.sharded)
	if err != nil {
		return nil, err
	}
	own := b.parts[0].way.prefix
	ownPrefix, _, _ := strings.Cut(own, ":{")
	var found []string
	for _, c := range channels {
		prefix, rest, ok := strings.Cut(c, ":{")
		tag, of, closed := strings.Cut(rest, "}:")
		switch {
		case !ok || !closed || of != topic || prefix == ownPrefix && (b.nodes != nil || c == own+topic):
		case prefix == ownPrefix:
			found = append(found, "database "+tag)
		default:
			found = append(found, "Prefix "+prefix)
		}
	}
	slices.Sort(found)
	return slices.Compact(found), nil
}

// globs escapes the special characters of Redis' patterns.
var globs = strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`, `]`, `\]`)

// channelsLike returns the channels of all masters that match the pattern and have
// subscribers.
func channelsLike(ctx context.Context, rdb redis.UniversalClient, pattern string, sharded bool) (channels []string, err error) {
	cluster, ok := rdb.(*redis.ClusterClient)
	if !ok {
		return rdb.PubSubChannels(ctx, pattern).Result()
	}
	var mu sync.Mutex
	err = cluster.ForEachMaster(ctx, func(ctx context.Context, master *redis.Client) error {
		ask := master.PubSubChannels
		if sharded {
			ask = master.PubSubShardChannels
		}
		some, err := ask(ctx, pattern).Result()
		mu.Lock()
		defer mu.Unlock()
		channels = append(channels, some...)
		return err
	})
	return channels, err
}
