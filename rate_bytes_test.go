package herald

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heraldgo/herald/internal/test/wsraw"
)

// A client may send ByteRate, and a message of MaxMessageSize at once; it is
// told if it sends more. Time stands still while it does not sleep.
func TestByteRate(t *testing.T) {
	const rate, size = 100 << 10, 30 << 10
	message := wsraw.Frame{Fin: true, Opcode: wsraw.Binary, Payload: make([]byte, size)}.Bytes()
	large := wsraw.Frame{Fin: true, Opcode: wsraw.Binary, Payload: make([]byte, 500<<10)}.Bytes()
	pings := bytes.Repeat(wsraw.Frame{Fin: true, Opcode: wsraw.Ping, Payload: make([]byte, 100)}.Bytes(), 2000)
	for _, test := range []struct {
		name   string
		limits Config
		writes [][]byte
		every  time.Duration
		taken  uint64
		closed string
	}{
		{"flood", Config{}, bytesOf(message, 20), 0, 3, "more than 102400 bytes a second"},
		{"as fast as may be", Config{}, bytesOf(message, 100), 301 * time.Millisecond, 100, ""},
		{"a little faster", Config{}, bytesOf(message, 100), 250 * time.Millisecond, 14, "more than 102400 bytes a second"},
		{"the largest at once", Config{MaxMessageSize: 500 << 10}, [][]byte{large}, 0, 1, ""},
		{"the largest again and again", Config{MaxMessageSize: 500 << 10}, bytesOf(large, 5), 5010 * time.Millisecond, 5, ""},
		{"two of the largest", Config{MaxMessageSize: 500 << 10}, bytesOf(large, 2), 0, 1, "more than 102400 bytes a second"},
		{"a large one in pieces", Config{MaxMessageSize: -1}, pieces(large, 50<<10), 501 * time.Millisecond, 1, ""},
		{"pings", Config{}, [][]byte{pings}, 0, 0, "more than 102400 bytes a second"},
		{"off", Config{ByteRate: -1}, bytesOf(message, 100), 0, 100, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				config := test.limits
				config.MessageRate = -1
				if config.ByteRate == 0 {
					config.ByteRate = rate
				}
				config.OnMessage = func(context.Context, *Conn, Message) {}
				r := newPipeRig(t, config)
				c := r.pipe("")
				reason := make(chan string, 1)
				go func() { // it does not answer: who writes may be blocked until the server hangs up
					closed, err := c.ReadClose()
					if err != nil {
						closed = &wsraw.Closed{}
					}
					reason <- closed.Reason
				}()
				for _, b := range test.writes {
					c.Write(b)
					time.Sleep(test.every)
				}
				synctest.Wait()
				s := r.Stats()
				if s.MessagesReceived != test.taken || (s.TooFast == 1) != (test.closed != "") {
					t.Errorf("%d messages were taken, want %d; TooFast is %d", s.MessagesReceived, test.taken, s.TooFast)
				}
				c.Close()
				if got := <-reason; got != test.closed {
					t.Errorf("closed with %q, want %q", got, test.closed)
				}
				r.ended(1)
				r.clean()
			})
		})
	}
}

// What a client has sent at its rate while OnMessage took its time is no burst:
// it waits in the kernel, and is read at once.
func TestByteRateAfterSlowCallback(t *testing.T) {
	const rate, size = 100 << 10, 10 << 10
	slow := true
	r := newRig(t, Config{ByteRate: rate, MessageRate: -1, PingInterval: -1, OnMessage: func(context.Context, *Conn, Message) {
		if slow {
			slow = false
			time.Sleep(300 * time.Millisecond)
		}
	}})
	ws := r.connect("")
	for range 12 { // a burst, and two more
		ws.WriteFrames(textFrame(strings.Repeat("x", size)))
	}
	r.await("all messages", func() bool { return r.Stats().MessagesReceived == 12 || r.Stats().TooFast > 0 })
	if n := r.Stats().TooFast; n != 0 {
		t.Error("the client was closed")
	}
}

func bytesOf(b []byte, n int) (all [][]byte) {
	for range n {
		all = append(all, b)
	}
	return all
}

func pieces(b []byte, n int) (all [][]byte) {
	for len(b) > 0 {
		all = append(all, b[:min(n, len(b))])
		b = b[min(n, len(b)):]
	}
	return all
}

// One who sends much to a room is closed, and not those in the room who take
// it more slowly.
func TestRoomOutlivesFastSender(t *testing.T) {
	var h *Hub
	r := newRig(t, Config{
		QueueBytes: 16 << 20, MaxSendSize: 100 << 10, WriteTimeout: patience, PingInterval: -1,
		OnMessage: func(ctx context.Context, _ *Conn, m Message) { h.Send(ctx, Group("room"), m) },
	})
	h = r.Hub
	for range 5 {
		r.connectSmall(false, "user=slow&groups=room") // it takes next to nothing
	}
	r.await("the room", func() bool { return r.Stats().Conns == 5 })
	for c := range r.Conns() {
		narrow(c)
	}
	sender := r.connect("user=sender")
	told := make(chan *wsraw.Closed)
	go func() {
		closed, _ := sender.ReadClose()
		told <- closed
	}()
	message := textFrame(strings.Repeat("x", 60<<10))
	for range 500 {
		if sender.WriteFrames(message) != nil {
			break
		}
	}
	if closed := <-told; closed == nil || closed.Code != uint16(StatusPolicyViolation) || closed.Reason != "more than 1048576 bytes a second" {
		t.Errorf("the sender saw %v", closed)
	}
	if s := r.Stats(); s.TooSlow != 0 || s.TooFast != 1 {
		t.Errorf("%d of the room were closed, TooFast is %d", s.TooSlow, s.TooFast)
	}
}
