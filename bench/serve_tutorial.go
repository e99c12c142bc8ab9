package main

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"

	"github.com/gorilla/websocket"
	"github.com/redis/go-redis/v9"
)

// tutorialServer is what tutorials build: one Redis channel that all nodes
// hear, a map from user to connections, and for each connection a goroutine
// that reads, one that writes, and a channel between.
type tutorialServer struct {
	rdb      *redis.Client
	upgrader websocket.Upgrader

	mu    sync.RWMutex
	users map[string]map[*tutorialClient]bool
}

type tutorialClient struct {
	conn *websocket.Conn
	send chan []byte
}

// tutorialMessage travels over the Redis channel; no User means everyone.
type tutorialMessage struct {
	User string `json:"user"`
	Data string `json:"data"`
}

const tutorialChannel = "messages"

func newTutorial(redisAddr string) (server, error) {
	s := &tutorialServer{
		rdb:      redis.NewClient(&redis.Options{Addr: redisAddr}),
		upgrader: websocket.Upgrader{ReadBufferSize: 1024, WriteBufferSize: 1024},
		users:    make(map[string]map[*tutorialClient]bool),
	}
	sub := s.rdb.Subscribe(context.Background(), tutorialChannel)
	if _, err := sub.Receive(context.Background()); err != nil {
		return nil, err
	}
	go func() {
		for m := range sub.Channel() {
			var message tutorialMessage
			if json.Unmarshal([]byte(m.Payload), &message) == nil {
				s.deliver(message)
			}
		}
	}()
	return s, nil
}

func (s *tutorialServer) deliver(m tutorialMessage) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if m.User != "" {
		for c := range s.users[m.User] {
			c.offer(m.Data)
		}
		return
	}
	for _, clients := range s.users {
		for c := range clients {
			c.offer(m.Data)
		}
	}
}

// offer drops what does not fit, as most tutorials do.
func (c *tutorialClient) offer(data string) {
	select {
	case c.send <- []byte(data):
	default:
	}
}

func (s *tutorialServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	conn, err := s.upgrader.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	user := r.URL.Query().Get("user")
	c := &tutorialClient{conn: conn, send: make(chan []byte, 256)}
	s.mu.Lock()
	if s.users[user] == nil {
		s.users[user] = make(map[*tutorialClient]bool)
	}
	s.users[user][c] = true
	s.mu.Unlock()
	go func() {
		for data := range c.send {
			if conn.WriteMessage(websocket.TextMessage, data) != nil {
				return
			}
		}
	}()
	for {
		if _, _, err := conn.ReadMessage(); err != nil {
			break
		}
	}
	s.mu.Lock()
	delete(s.users[user], c)
	s.mu.Unlock()
	close(c.send)
	conn.Close()
}

func (s *tutorialServer) toUser(ctx context.Context, user string, p payload) error {
	return s.publish(ctx, tutorialMessage{User: user, Data: p.text})
}

func (s *tutorialServer) toEveryone(ctx context.Context, p payload) error {
	return s.publish(ctx, tutorialMessage{Data: p.text})
}

func (s *tutorialServer) publish(ctx context.Context, m tutorialMessage) error {
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return s.rdb.Publish(ctx, tutorialChannel, data).Err()
}
