package demo

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
)

// A store is the Redis that all nodes share.
type store struct {
	url      redisURL
	embedded *miniredis.Miniredis // nil if the Redis is somebody else's
}

// openStore starts a Redis in this process, or checks that the one at address
// answers.
func openStore(ctx context.Context, address string) (*store, error) {
	if address == "" {
		m := miniredis.NewMiniRedis()
		m.ClockTTL(true) // else a key with a time to live would live for ever
		if err := m.Start(); err != nil {
			return nil, fmt.Errorf("embedded Redis: %w", err)
		}
		return &store{url: redisURL{single: &redis.Options{Addr: m.Addr()}}, embedded: m}, nil
	}
	url, err := parseRedis(address)
	if err != nil {
		return nil, fmt.Errorf("-redis %q: %w", Redacted(address), err)
	}
	probe := url.once()
	defer probe.Close()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := probe.Ping(ctx).Err(); err != nil {
		return nil, fmt.Errorf("redis %q does not answer: %w", Redacted(address), err)
	}
	return &store{url: url}, nil
}

func (s *store) close() {
	if s.embedded != nil {
		s.embedded.Close()
	}
}

// client returns a client whose links, and those of every client made from
// its options, can be cut.
func (s *store) client() (redis.UniversalClient, *links) {
	own := new(links)
	return s.url.client(func(dial dialFunc) dialFunc {
		return func(ctx context.Context, network, addr string) (net.Conn, error) {
			return own.dial(ctx, dial, network, addr)
		}
	}), own
}
