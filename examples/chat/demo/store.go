package demo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
)

// A store is the Redis that all nodes share.
type store struct {
	options  redis.Options
	embedded *miniredis.Miniredis // nil where the Redis is somebody else's
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
		return &store{options: redis.Options{Addr: m.Addr()}, embedded: m}, nil
	}
	parsed, err := redis.ParseURL(address)
	if bad, ok := errors.AsType[*url.Error](err); ok {
		err = bad.Err // without the URL, which may hold a password
	}
	if err != nil {
		return nil, fmt.Errorf("-redis: %w: must be a URL such as redis://localhost:6379", err)
	}
	s := &store{options: *parsed}
	once := s.options
	once.MaxRetries, once.DialerRetries, once.DialTimeout = -1, 1, 3*time.Second
	probe := redis.NewClient(&once)
	defer probe.Close()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := probe.Ping(ctx).Err(); err != nil {
		return nil, fmt.Errorf("-redis: %s does not answer: %w", parsed.Addr, err)
	}
	return s, nil
}

func (s *store) close() {
	if s.embedded != nil {
		s.embedded.Close()
	}
}

// client returns a client whose links, and those of every client made from
// its options, can be cut.
func (s *store) client() (*redis.Client, *links) {
	options := s.options
	if options.DialTimeout == 0 {
		options.DialTimeout = 5 * time.Second
	}
	own := new(links)
	plain := options
	dial := redis.NewDialer(&plain)
	options.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
		return own.dial(ctx, dial, network, addr)
	}
	return redis.NewClient(&options), own
}
