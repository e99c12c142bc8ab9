// Package autobahn checks a Hub with the cases of Autobahn
// Testsuite that concern a server: sections 1 to 7, 9 and 10, and those of
// permessage-deflate, 12 and 13. They are written down here by their numbers, with
// what is sent and what must be answered, so that they run without the suite. If
// the suite accepts either of two answers (OK and NON-STRICT), the better one is
// required.
//
// The suite sends in chops to check that an answer does not depend on how TCP cuts
// the stream. Here each chop is a write of its own, which the kernel may join with
// the next. The tests of internal/frame check that the cuts do not matter.
package autobahn

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/test/wsraw"
)

// patience is how long the server may take for anything. It is the same as wsraw's.
const patience = 60 * time.Second

// most is the size of the largest message of section 9.
const most = 16 << 20

// echoServer starts a Hub that sends every message back, and returns its
// address. It has no limit that a case could meet on a slow machine.
func echoServer(t *testing.T) (addr string) {
	hub, err := herald.New(herald.Config{
		Authenticate:         herald.Anonymous,
		OnMessage:            func(_ context.Context, c *herald.Conn, m herald.Message) { c.Send(m) },
		Compression:          true, // for clients that offer it
		HandshakeRatePerAddr: -1,
		MessageRate:          -1,
		ByteRate:             -1,
		MaxMessageSize:       most,
		MaxSendSize:          most,
		QueueBytes:           2 * most,
		MaxQueuedBytes:       -1,
		MessageTimeout:       -1,
		PingInterval:         -1,
		HandshakeTimeout:     patience,
		WriteTimeout:         patience,
		CloseTimeout:         patience,
		Logger:               slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(hub)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := hub.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		server.Close()
	})
	return server.Listener.Addr().String()
}

// A testcase is one case of the suite.
type testcase struct {
	number string
	steps  []step
	codes  []uint16 // the server's close frame must have one of these; nil accepts any answer
}

// TestCases runs every case on a connection of its own.
func TestCases(t *testing.T) {
	addr := echoServer(t)
	t.Run("cases", func(t *testing.T) { // the server outlives them
		for _, c := range cases {
			t.Run(c.number, func(t *testing.T) {
				t.Parallel()
				c.run(t, addr)
			})
		}
	})
}

// The suite has this many cases in these sections. Each number occurs once.
func TestTable(t *testing.T) {
	seen := make(map[string]bool)
	for _, c := range cases {
		if seen[c.number] {
			t.Errorf("two cases are called %s", c.number)
		}
		seen[c.number] = true
	}
	if len(cases) != 301 {
		t.Errorf("%d cases", len(cases))
	}
}

// run runs a client that does what the case says.
func (c testcase) run(t *testing.T, addr string) {
	ws := dial(t, addr)
	masks := rand.New(rand.NewPCG(1, 2))
	for i, s := range c.steps {
		for write := range s.writes(masks) {
			if _, err := ws.Write(write); err != nil {
				t.Fatalf("step %d: %v", i, err)
			}
		}
		for _, want := range s.answer {
			got, err := ws.ReadFrame()
			if err != nil {
				t.Fatalf("step %d: %v instead of %s", i, err, show(want))
			}
			if !got.Fin || got.Opcode != want.Opcode || !bytes.Equal(got.Payload, want.Payload) {
				t.Fatalf("step %d: %s instead of %s", i, show(got), show(want))
			}
		}
	}
	if c.codes == nil {
		awaitEnd(t, ws)
		return
	}
	f, err := ws.ReadFrame()
	if err != nil {
		t.Fatalf("%v instead of a close frame with one of %d", err, c.codes)
	}
	if f.Opcode != wsraw.Close || !slices.Contains(c.codes, codeOf(f)) {
		t.Fatalf("%s instead of a close frame with one of %d", show(f), c.codes)
	}
	if err := ws.ReadEnd(); err != nil {
		t.Error(err)
	}
}

// dial connects a client, whose connection ends with the test.
func dial(t *testing.T, addr string) *wsraw.Conn {
	tcp, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tcp.Close() })
	ws, _, err := wsraw.Handshake(tcp, "/", nil)
	if err != nil {
		t.Fatal(err)
	}
	return ws
}

// awaitEnd reads until the server ends the connection.
func awaitEnd(t *testing.T, ws *wsraw.Conn) {
	for {
		f, err := ws.ReadFrame()
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			t.Fatal(err)
		}
		if err != nil {
			return
		}
		t.Log(show(f))
	}
}

// codeOf returns the code of a close frame, or noCode.
func codeOf(f wsraw.Frame) uint16 {
	if len(f.Payload) < 2 {
		return noCode
	}
	return binary.BigEndian.Uint16(f.Payload)
}

func show(f wsraw.Frame) string {
	payload := f.Payload[:min(len(f.Payload), 40)]
	return fmt.Sprintf("frame of opcode %d with %d bytes, %q", f.Opcode, len(f.Payload), payload)
}
