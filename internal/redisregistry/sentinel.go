package redisregistry

import (
	"context"
	"net"
	"sync"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald/internal/redisconn"
)

// A sentinelStore is a client of the master that Sentinels name. It notices when they
// name another one: the old one answers as well as ever for some ten seconds, and
// what is written there is lost.
type sentinelStore struct {
	singleStore
	dialer func(ctx context.Context, network, addr string) (net.Conn, error)

	mu    sync.Mutex
	addr  string // the server that was dialed first
	moved bool   // another one has been dialed since
}

func newSentinelStore(options redis.Options) *sentinelStore {
	s := &sentinelStore{dialer: options.Dialer}
	options.Dialer = s.dial
	s.singleStore = newSingleStore(&options)
	return s
}

// dial dials the master, and notes which server that is.
func (s *sentinelStore) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := s.dialer(ctx, network, addr)
	if err != nil {
		return nil, redisconn.DialError(err)
	}
	server := conn.RemoteAddr().String()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.addr == "" {
		s.addr = server
	}
	s.moved = s.moved || s.addr != server
	return conn, nil
}

// leads reports whether every connection is to this server.
func (s *sentinelStore) leads(server string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.moved && (s.addr == "" || s.addr == server)
}

// doubt returns why the server that has answered may have been replaced, or nil.
func (r *Registry) doubt(store shardStore) error {
	s, ok := store.(*sentinelStore)
	if !ok {
		return nil
	}
	s.mu.Lock()
	addr, moved := s.addr, s.moved
	s.mu.Unlock()
	switch {
	case moved:
		return redisconn.ErrMoved
	case addr == "": // not dialed yet
		return nil
	}
	return r.master.Health(addr)
}

// followMaster asks the Sentinels, until Close, who the master is, and connects to
// it.
func (r *Registry) followMaster(ctx context.Context) {
	r.master.Follow(ctx, redisconn.SentinelLag/2, func(server string) {
		r.mu.Lock()
		store, ok := r.store.(*sentinelStore)
		r.mu.Unlock()
		if ok && !store.leads(server) {
			r.reconnect(store)
		}
	})
}
