package redisbus

import (
	"context"
	"sync"

	"github.com/heraldgo/herald/internal/errs"
	"github.com/heraldgo/herald/internal/redisconn"
)

// split distributes items to the n partitions of their topics, in order.
func split[T any](items []T, n int, topic func(T) string) [][]T {
	parts := make([][]T, n)
	for _, item := range items {
		i := redisconn.ShardOf(topic(item), n)
		parts[i] = append(parts[i], item)
	}
	return parts
}

// publish publishes packets in all their partitions at the same time.
func publish[P packet](ctx context.Context, b *Bus, packets []P) error {
	switch {
	case len(packets) == 0:
		return nil
	case len(b.parts) == 1:
		return publishTo(ctx, b.parts[0], packets)
	case len(packets) == 1:
		return publishTo(ctx, b.parts[redisconn.ShardOf(Packet(packets[0]).Topic, len(b.parts))], packets)
	}
	results := make([]error, len(b.parts))
	taken := false // by any partition
	parts := split(packets, len(b.parts), func(p P) string { return Packet(p).Topic })
	var publishing sync.WaitGroup
	for i, packets := range parts {
		if len(packets) > 0 {
			publishing.Go(func() { results[i] = publishTo(ctx, b.parts[i], packets) })
		}
	}
	publishing.Wait()
	for i, packets := range parts {
		taken = taken || len(packets) > 0 && results[i] == nil
	}
	err := errs.Join(results)
	if err != nil && taken {
		err = errs.InPart(err)
	}
	return err
}

// change subscribes to topics, or unsubscribes, in all their partitions at the
// same time.
func (b *Bus) change(ctx context.Context, kind commandKind, topics []string) error {
	if len(b.parts) == 1 {
		return b.parts[0].sub.change(ctx, kind, topics)
	}
	if len(topics) == 1 {
		return b.parts[redisconn.ShardOf(topics[0], len(b.parts))].sub.change(ctx, kind, topics)
	}
	results := make([]error, len(b.parts))
	var changing sync.WaitGroup
	for i, topics := range split(topics, len(b.parts), func(t string) string { return t }) {
		if len(topics) > 0 {
			changing.Go(func() { results[i] = b.parts[i].sub.change(ctx, kind, topics) })
		}
	}
	changing.Wait()
	return errs.Join(results)
}
