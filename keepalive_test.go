package herald

import (
	"context"
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heraldgo/herald/internal/test/wsraw"
)

// A slowCloser takes its time to close, and stops keepalive for so long, as
// SIGSTOP does a process.
type slowCloser struct {
	net.Conn
	pause time.Duration
}

func (c slowCloser) Close() error {
	time.Sleep(c.pause)
	return c.Conn.Close()
}

// After a pause of the process nobody is silent who could not be heard: not
// the client that was never pinged, nor the one whose pong has not been read.
func TestPauseKillsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const pause = time.Minute
		r := newPipeRig(t, Config{
			PingInterval: 25 * time.Second, PongTimeout: 10 * time.Second,
			OnConnect: func(_ context.Context, c *Conn) error {
				if c.User() == "stopper" { // nothing reads its socket yet
					c.socket.conn = slowCloser{c.socket.conn, pause}
				}
				return nil
			},
		})
		ping := func(ws *wsraw.Conn) {
			t.Helper()
			if f, err := ws.ReadFrame(); err != nil || f.Opcode != wsraw.Ping {
				t.Fatalf("%+v, %v", f, err)
			}
		}
		pong := wsraw.Frame{Fin: true, Opcode: wsraw.Pong}
		stopper := r.pipe("user=stopper")
		time.Sleep(5 * time.Second)
		pinged := r.pipe("user=pinged")
		time.Sleep(10 * time.Second)
		quiet := r.pipe("user=quiet")
		ping(stopper) // 25 s after the start, and it never answers
		ping(pinged)  // 30 s
		// At 36 s keepalive closes stopper, and stands still until 96 s.
		time.Sleep(50 * time.Second)
		for _, ws := range []*wsraw.Conn{pinged, quiet} {
			ping(ws)
			ws.WriteFrames(pong)
		}
		time.Sleep(20 * time.Second)
		if cause := r.ended(1); len(cause) != 1 || !errors.Is(cause[0], ErrSilent) || r.Stats().Silent != 1 {
			t.Errorf("ended are %v", cause)
		}
		for _, ws := range []*wsraw.Conn{stopper, pinged, quiet} {
			ws.Close()
		}
		r.ended(3)
		r.clean()
	})
}
