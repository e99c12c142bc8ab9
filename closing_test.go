package herald

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heraldgo/herald/internal/test/wsraw"
)

// closings are the ways to be closed, and what a client may send before.
var closings = []struct {
	name  string
	query string
	first []byte
	code  StatusCode
}{
	{"refused", "user=nobody", nil, StatusUnauthorized},
	{"refused by OnConnect", "user=banned", nil, 4003},
	{"closed by the service", "user=gone", nil, 4000},
	{"breach of the protocol", "user=odd", []byte{0x83, 0x80, 0, 0, 0, 0}, 1002},
	{"message too big", "user=big", wsraw.Frame{Fin: true, Opcode: wsraw.Text, Payload: make([]byte, 2_000)}.Bytes(), 1009},
}

func newClosingRig(t *testing.T, pipe bool, timeout time.Duration) *rig {
	start := newRig
	if pipe {
		start = newPipeRig
	}
	return start(t, Config{
		RejectAfterUpgrade: true, MaxMessageSize: 1_000, MessageRate: -1, CloseTimeout: timeout,
		Authenticate: func(r *http.Request) (Identity, error) {
			id, _ := fromQuery(r)
			if id.User == "nobody" {
				return Identity{}, errors.New("no")
			}
			return id, nil
		},
		OnConnect: func(_ context.Context, c *Conn) error {
			switch c.User() {
			case "banned":
				return &CloseError{Code: 4003}
			case "gone":
				c.Close(4000, "")
			}
			return nil
		},
	})
}

// enough is more than the kernel's buffers hold of what nobody reads.
const enough = 64 << 20

// A connection that is being closed is read until its close frame may have
// come, and not for as long as the client sends.
func TestClosingIsReadNoMore(t *testing.T) {
	for _, test := range closings {
		for what, frame := range map[string]wsraw.Frame{
			"messages": {Fin: true, Opcode: wsraw.Text, Payload: make([]byte, 900)},
			"pings":    {Fin: true, Opcode: wsraw.Ping, Payload: make([]byte, 100)},
			"nothing":  {Fin: true, Opcode: wsraw.Pong},
		} {
			flood := bytes.Repeat(frame.Bytes(), (32<<10)/len(frame.Bytes()))
			// sends floods, and returns how many bytes the connection took.
			send := func(c *wsraw.Conn, limit int) (sent int) {
				c.Write(test.first)
				for sent < limit {
					n, err := c.Write(flood)
					if sent += n; err != nil {
						break
					}
				}
				return sent
			}
			t.Run(test.name+"/"+what+"/pipe", func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					r := newClosingRig(t, true, 5*time.Second)
					c := r.pipe(test.query)
					var reading sync.WaitGroup
					reading.Go(func() {
						if closed, err := c.ReadClose(); err != nil || StatusCode(closed.Code) != test.code {
							t.Errorf("closed with %v, %v, want %d", closed, err, test.code)
						}
					})
					begun := time.Now()
					if sent := send(c, 8<<20); sent > 1<<20 {
						t.Errorf("%d bytes were read of a connection that is being closed", sent)
					}
					reading.Wait()
					c.ReadEnd()
					if took := time.Since(begun); took != 5*time.Second {
						t.Errorf("it took %v, want the CloseTimeout", took)
					}
					if n := r.Stats().Overran; n != 1 {
						t.Errorf("Overran is %d", n)
					}
					r.clean()
				})
			})
			if what != "messages" { // each takes a CloseTimeout
				continue
			}
			t.Run(test.name+"/"+what+"/TCP", func(t *testing.T) {
				r := newClosingRig(t, false, time.Second)
				c := r.connect(test.query)
				var reading sync.WaitGroup
				reading.Go(func() {
					if closed, err := c.ReadClose(); err != nil || StatusCode(closed.Code) != test.code {
						t.Errorf("closed with %v, %v, want %d", closed, err, test.code)
					}
				})
				if sent := send(c, enough); sent >= enough {
					t.Errorf("%d bytes were taken of a connection that is being closed", sent)
				}
				reading.Wait()
				r.await("the count", func() bool { return r.Stats().Overran == 1 })
				r.clean()
			})
		}
	}
}

// A client that is in the middle of a message when it is closed may end it,
// and answers then.
func TestClosingClientMayEndItsMessage(t *testing.T) {
	for _, size := range []int{64 << 10, 1 << 20} {
		synctest.Test(t, func(t *testing.T) { closedInTheMiddle(t, size) })
	}
}

func closedInTheMiddle(t *testing.T, size int) {
	r := newPipeRig(t, Config{MaxMessageSize: int64(size)})
	c := r.pipe("")
	message := wsraw.Frame{Fin: true, Opcode: wsraw.Text, Payload: make([]byte, size)}.Bytes()
	c.Write(message[:100])
	r.only().Close(4000, "")
	if closed, err := c.ReadClose(); err != nil || closed.Code != 4000 {
		t.Errorf("%v, %v", closed, err)
	}
	begun := time.Now()
	c.Write(message[100:])
	c.WriteFrames(wsraw.CloseFrame(4000, ""))
	if err := c.ReadEnd(); err != nil || time.Since(begun) > 0 {
		t.Errorf("it ended with %v, %v after the answer", err, time.Since(begun))
	}
	if n := r.Stats().Overran; n != 0 {
		t.Errorf("Overran is %d", n)
	}
	r.clean()
}
