package herald

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// A sentinelStore is the master that Sentinels name. It notices when they
// name another one: the old one answers as well as ever for some ten seconds,
// and what is written there is lost.
type sentinelStore struct {
	singleStore
	ctx    context.Context // ends at Close
	cancel context.CancelFunc
	dialer func(ctx context.Context, network, addr string) (net.Conn, error)

	mu    sync.Mutex
	addr  string // of the server that was dialed first
	moved bool   // another one has been dialed since
	asked time.Time
}

func newSentinelStore(options redis.Options) *sentinelStore {
	s := &sentinelStore{dialer: options.Dialer, asked: time.Now()}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	options.Dialer = s.dial
	s.singleStore = newSingleStore(&options)
	return s
}

// Close closes the client, and ends an ask that is under way.
func (s *sentinelStore) Close() error {
	s.cancel()
	return s.singleStore.Close()
}

// dial dials the master, and notes which server that is.
func (s *sentinelStore) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := s.dialer(ctx, network, addr)
	if err != nil {
		return nil, dialError(err)
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

// due says whether it is time to ask the Sentinels, and that is up to the
// caller then.
func (s *sentinelStore) due() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.asked) < sentinelLag {
		return false
	}
	s.asked = time.Now()
	return true
}

// ask asks the Sentinels who the master is, and answers whether that is
// another server than before. Where none answers, the old one has to do.
func (s *sentinelStore) ask() (moved bool) {
	ctx, cancel := context.WithTimeout(s.ctx, sentinelLag)
	defer cancel()
	if conn, err := s.dial(ctx, "tcp", failoverAddr); err == nil {
		conn.Close()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.moved
}

// follow asks, now and then, whether store is the master still.
func (r *RedisRegistry) follow(store redisStore) {
	s, ok := store.(*sentinelStore)
	if ok && s.due() {
		r.calls.Go(func() {
			if s.ask() {
				r.reconnect(store)
			}
		})
	}
}
