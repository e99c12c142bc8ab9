package main

import (
	"context"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
)

// floorServer is the least there can be: a frame, encoded once, and one write
// call for each socket. No Redis, no queue, no reader: one node, alone.
type floorServer struct {
	mu    sync.RWMutex
	conns map[string][]net.Conn // by user
}

func newFloor(string) (server, error) {
	return &floorServer{conns: make(map[string][]net.Conn)}, nil
}

func (s *floorServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	// RFC 6455, section 4.2.2.
	key := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n",
		base64.StdEncoding.EncodeToString(key[:]))
	s.mu.Lock()
	user := r.URL.Query().Get("user")
	s.conns[user] = append(s.conns[user], conn)
	s.mu.Unlock()
	rw.Flush()
}

func (s *floorServer) toUser(_ context.Context, user string, p payload) error {
	frame := appendFrame(nil, p.bytes)
	s.mu.RLock()
	defer s.mu.RUnlock()
	return writeAll(s.conns[user], frame)
}

func (s *floorServer) toEveryone(_ context.Context, p payload) error {
	frame := appendFrame(nil, p.bytes)
	s.mu.RLock()
	defer s.mu.RUnlock()
	var errs []error
	for _, conns := range s.conns {
		errs = append(errs, writeAll(conns, frame))
	}
	return errors.Join(errs...)
}

func writeAll(conns []net.Conn, frame []byte) error {
	for _, c := range conns {
		if _, err := c.Write(frame); err != nil {
			return err
		}
	}
	return nil
}

// appendFrame appends an unmasked text frame (RFC 6455, section 5.2).
func appendFrame(b, payload []byte) []byte {
	switch n := len(payload); {
	case n < 126:
		b = append(b, 0x81, byte(n))
	case n < 1<<16:
		b = append(b, 0x81, 126, byte(n>>8), byte(n))
	default:
		b = append(b, 0x81, 127, 0, 0, 0, 0, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
	}
	return append(b, payload...)
}
