package main

import (
	"bytes"
	"compress/flate"
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
	deflates bool // each message of at least 512 bytes, once

	mu    sync.RWMutex
	conns map[string][]net.Conn // by user
}

func newFloor(deflates bool) (server, error) {
	return &floorServer{deflates: deflates, conns: make(map[string][]net.Conn)}, nil
}

func (s *floorServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	// RFC 6455, section 4.2.2.
	key := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n",
		base64.StdEncoding.EncodeToString(key[:]))
	if s.deflates {
		fmt.Fprintf(rw, "Sec-WebSocket-Extensions: %s; %s\r\n", deflates, keepsNothing)
	}
	rw.WriteString("\r\n")
	s.mu.Lock()
	user := r.URL.Query().Get("user")
	s.conns[user] = append(s.conns[user], conn)
	s.mu.Unlock()
	rw.Flush()
}

func (s *floorServer) toUser(_ context.Context, user string, p payload) error {
	frame := s.frame(p.bytes)
	s.mu.RLock()
	defer s.mu.RUnlock()
	return writeAll(s.conns[user], frame)
}

func (s *floorServer) toEveryone(_ context.Context, p payload) error {
	frame := s.frame(p.bytes)
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

func (s *floorServer) frame(payload []byte) []byte {
	if !s.deflates || len(payload) < 512 {
		return appendFrame(nil, payload)
	}
	w := flateWriters.Get().(*flate.Writer)
	defer flateWriters.Put(w)
	var packed bytes.Buffer
	w.Reset(&packed)
	w.Write(payload)
	w.Flush()
	frame := appendFrame(nil, bytes.TrimSuffix(packed.Bytes(), []byte(flushed)))
	frame[0] |= compressed
	return frame
}

var flateWriters = sync.Pool{New: func() any {
	w, _ := flate.NewWriter(nil, flate.BestSpeed) // the level is a valid one
	return w
}}

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
