package main

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/lxzan/gws"
	"github.com/redis/go-redis/v9"
)

// gwsServer is what a Go engineer who cares for speed would build of gws and go-redis:
// a Redis channel a user, which a node hears while the user is connected to it, and
// frames that are encoded once and written by gws' own queues.
type gwsServer struct {
	gws.BuiltinEventHandler
	rdb      *redis.Client
	sub      *redis.PubSub
	upgrader *gws.Upgrader

	mu       sync.RWMutex
	channels map[string]map[*gws.Conn]bool
}

const (
	gwsChannel  = "channel" // of a connection's session: its user's
	gwsEveryone = "everyone"
	gwsPing     = 25 * time.Second // between two pings; as long again without an answer ends a connection
)

func newGWS(redisAddr string, deflates bool) (server, error) {
	s := &gwsServer{
		rdb:      redis.NewClient(&redis.Options{Addr: redisAddr}),
		channels: map[string]map[*gws.Conn]bool{gwsEveryone: {}},
	}
	s.upgrader = gws.NewUpgrader(s, &gws.ServerOption{
		Authorize: func(r *http.Request, session gws.SessionStorage) bool {
			session.Store(gwsChannel, "user:"+r.URL.Query().Get("user"))
			return true
		},
		PermessageDeflate: gws.PermessageDeflate{Enabled: deflates},
	})
	s.sub = s.rdb.Subscribe(context.Background(), gwsEveryone)
	if _, err := s.sub.Receive(context.Background()); err != nil {
		return nil, err
	}
	go s.receive()
	go s.keepAlive()
	return s, nil
}

// receive does not use PubSub.Channel, whose buffer drops what does not fit.
func (s *gwsServer) receive() {
	for {
		m, err := s.sub.ReceiveMessage(context.Background())
		if err != nil {
			continue
		}
		s.deliver(m.Channel, []byte(m.Payload))
	}
}

func (s *gwsServer) deliver(channel string, data []byte) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	frames := gws.NewBroadcaster(gws.OpcodeText, data)
	defer frames.Close()
	for c := range s.channels[channel] {
		frames.Broadcast(c)
	}
}

func (s *gwsServer) keepAlive() {
	for range time.Tick(gwsPing) {
		s.mu.RLock()
		for c := range s.channels[gwsEveryone] {
			c.SetReadDeadline(time.Now().Add(2 * gwsPing))
			c.WriteAsync(gws.OpcodePing, nil, nil)
		}
		s.mu.RUnlock()
	}
}

func (s *gwsServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c, err := s.upgrader.Upgrade(w, r)
	if err != nil {
		return
	}
	go c.ReadLoop() // net/http's goroutine has a larger stack
}

// OnOpen subscribes before anybody else may unsubscribe, so the lock is held.
func (s *gwsServer) OnOpen(c *gws.Conn) {
	channel := channelOf(c)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.channels[gwsEveryone][c] = true
	if s.channels[channel] == nil {
		s.channels[channel] = make(map[*gws.Conn]bool)
		s.sub.Subscribe(context.Background(), channel)
	}
	s.channels[channel][c] = true
}

func (s *gwsServer) OnClose(c *gws.Conn, _ error) {
	channel := channelOf(c)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.channels[gwsEveryone], c)
	delete(s.channels[channel], c)
	if len(s.channels[channel]) == 0 {
		delete(s.channels, channel)
		s.sub.Unsubscribe(context.Background(), channel)
	}
}

func (s *gwsServer) OnPing(c *gws.Conn, payload []byte) { c.WritePong(payload) }

func (s *gwsServer) OnMessage(_ *gws.Conn, m *gws.Message) { m.Close() }

func channelOf(c *gws.Conn) string {
	channel, _ := c.Session().Load(gwsChannel)
	name, _ := channel.(string)
	return name
}

func (s *gwsServer) toUser(ctx context.Context, user string, p payload) error {
	return s.rdb.Publish(ctx, "user:"+user, p.bytes).Err()
}

func (s *gwsServer) toEveryone(ctx context.Context, p payload) error {
	return s.rdb.Publish(ctx, gwsEveryone, p.bytes).Err()
}
