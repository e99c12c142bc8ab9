package demo

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
)

// A store is the Redis that all nodes share.
type store struct {
	url      redisURL
	embedded *miniredis.Miniredis // nil if the Redis is somebody else's

	mu    sync.Mutex
	state string // of the embedded one; "" if there is none
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
		return &store{url: redisURL{single: &redis.Options{Addr: m.Addr()}}, embedded: m, state: stateRunning}, nil
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

// now returns the state of the embedded Redis, or "" if there is none.
func (s *store) now() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

// stopRedis stops the embedded Redis. It keeps its data.
func (s *store) stopRedis() error {
	if err := s.move(stateRunning, stateStopping); err != nil {
		return err
	}
	s.embedded.Close()
	return s.move(stateStopping, stateStopped)
}

// startRedis starts it again, with its data or without.
func (s *store) startRedis(empty bool) error {
	if err := s.move(stateStopped, stateStarting); err != nil {
		return err
	}
	if empty {
		s.embedded.FlushAll()
	}
	if err := s.embedded.Restart(); err != nil {
		s.move(stateStarting, stateStopped)
		return fmt.Errorf("embedded Redis: %w", err)
	}
	return s.move(stateStarting, stateRunning)
}

// move changes the state, so that of two who want the same only one does it.
func (s *store) move(from, to string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch s.state {
	case "":
		return errOthersRedis
	case from:
		s.state = to
		return nil
	default:
		return fmt.Errorf("the embedded Redis is %s: %w", s.state, errWrongState)
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
