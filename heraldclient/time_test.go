package heraldclient_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heraldgo/herald/heraldclient"
)

const timeout = 10 * time.Second // Config.Timeout's default

// A server that stops at any byte is found within twice the Timeout.
func TestStallAnywhere(t *testing.T) {
	const step = 7
	synctest.Test(t, func(t *testing.T) {
		done := make(chan bool)
		config := heraldclient.Config{URL: "ws://pipe", MinDelay: atOnce, MaxDelay: atOnce}
		config.HTTPClient = serveRawPipes(t, func(i int, c *raw) {
			stream := c.upgrade() + greeting("c.1", 1, true) + text("m 0.a.2\nHello")
			if i*step > len(stream) {
				close(done)
				c.write(stream)
				c.ignore()
				return
			}
			began := time.Now()
			c.write(stream[:i*step])
			c.ignore()
			if took := time.Since(began); took > 2*timeout {
				t.Errorf("the server stopped at byte %d, and the client noticed after %v", i*step, took)
			}
		})
		client := start(t, config)
		for {
			select {
			case <-done:
				wantNext(t, client, "Hello")
				return
			default:
				next(t, client)
			}
		}
	})
}

// wantNext is want, and passes what else there is before it.
func wantNext(t *testing.T, c *heraldclient.Client, text string) {
	t.Helper()
	if m := await[heraldclient.Message](t, c); string(m.Data) != text {
		t.Fatalf("%q instead of %q", m.Data, text)
	}
}

// A server that never answers pings is given up, also if it is a plain one that
// says nothing; one that answers is kept, and so is one that sends.
func TestSilence(t *testing.T) {
	for _, test := range []struct {
		name   string
		script func(c *raw)
		kept   bool
	}{
		{"never a frame", (*raw).stall, false},
		{"never a frame, but it reads", func(c *raw) { c.deaf(); c.stall() }, false},
		{"a welcome and no more", func(c *raw) { c.deaf(); c.write(greeting("c.1", 1, false)); c.stall() }, false},
		{"messages, and no pong", func(c *raw) {
			c.deaf()
			for range 100 {
				c.write(text("Hello"))
				time.Sleep(timeout / 3)
			}
		}, true},
		{"a long message, and no pong", func(c *raw) {
			c.deaf()
			c.write("\x81\x7f\x00\x00\x00\x00\x00\x00\xff\xff")
			for range 100 {
				c.write("x")
				time.Sleep(timeout / 3)
			}
		}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client := start(t, heraldclient.Config{URL: "ws://pipe", HTTPClient: serveRawPipes(t, func(i int, c *raw) {
					c.write(c.upgrade())
					test.script(c)
				})})
				ctx, cancel := context.WithTimeout(t.Context(), 3*timeout)
				defer cancel()
				began := time.Now()
				for {
					e, err := client.Receive(ctx)
					if _, ended := e.(heraldclient.Disconnected); err == nil && !ended {
						continue
					}
					if test.kept != (err != nil) || time.Since(began) > 2*timeout && !test.kept {
						t.Errorf("after %v: %v, %v", time.Since(began), e, err)
					}
					return
				}
			})
		})
	}
}

// A Client that does not Receive stops to read, and is not taken for one whose
// server is silent.
func TestFull(t *testing.T) {
	for size, messages := range map[int]int{1: 3000, 1 << 16: 100} {
		t.Run(fmt.Sprint(size, " bytes"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var mu sync.Mutex
				sent := 0
				body := strings.Repeat("x", size)
				client := start(t, heraldclient.Config{URL: "ws://pipe", HTTPClient: serveRawPipes(t, func(i int, c *raw) {
					c.deaf()
					c.write(c.upgrade(), greeting("c.1", 1, false))
					for range messages {
						c.write(text("m\n%s", body))
						mu.Lock()
						sent++
						mu.Unlock()
					}
					c.stall()
				})})
				time.Sleep(10 * timeout)
				mu.Lock()
				if most := min(1024, 1<<20/size) + 3; sent == 0 || sent > most {
					t.Errorf("%d messages were read, at most %d are right", sent, most)
				}
				mu.Unlock()
				next(t, client)
				for range messages {
					want(t, client, body)
				}
			})
		})
	}
}

// Close takes a second, whatever the server does, and leaves nothing running: the
// bubble would not end.
func TestClose(t *testing.T) {
	block := func(i int, c *raw) { c.stall() }
	for _, test := range []struct {
		name   string
		script func(i int, c *raw)
		before func(*heraldclient.Client)
	}{
		{"in the handshake", block, nil},
		{"within an answer", func(i int, c *raw) { c.write(c.upgrade()[:40]); c.ignore() }, nil},
		{"within a frame", func(i int, c *raw) { c.write(c.upgrade(), greeting("c.1", 1, false), text("m\nHello")[:5]); c.stall() }, nil},
		{"while it reads nothing", func(i int, c *raw) { c.write(c.upgrade(), greeting("c.1", 1, false)); c.stall() }, nil},
		{"while it drips", func(i int, c *raw) {
			c.write(c.upgrade(), greeting("c.1", 1, false), "\x81\x7f\x00\x00\x00\x00\x7f\xff\xff\xff")
			for {
				if _, err := c.Write([]byte("x")); err != nil {
					return
				}
				time.Sleep(100 * time.Millisecond)
			}
		}, nil},
		{"while one sends", func(i int, c *raw) { c.write(c.upgrade(), greeting("c.1", 1, false)); c.stall() }, func(c *heraldclient.Client) {
			for range 3 {
				go c.SendText(context.Background(), []byte(strings.Repeat("x", 1<<20)))
			}
		}},
		{"while one waits to send", block, func(c *heraldclient.Client) { go c.SendText(context.Background(), nil) }},
		{"while one probes", func(i int, c *raw) { c.write(c.upgrade(), greeting("c.1", 1, false)); c.ignore() }, func(c *heraldclient.Client) {
			go c.Probe(context.Background())
		}},
		{"while one receives", block, func(c *heraldclient.Client) { go c.Receive(context.Background()) }},
		{"while it waits", func(i int, c *raw) {}, nil},
		{"while its queue is full", func(i int, c *raw) {
			c.write(c.upgrade(), strings.Repeat(text("Hello"), 3000))
			c.ignore()
		}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client := start(t, heraldclient.Config{
					URL: "ws://pipe", MinDelay: time.Hour, MaxDelay: time.Hour, HTTPClient: serveRawPipes(t, test.script),
				})
				synctest.Wait()
				if test.before != nil {
					test.before(client)
				}
				time.Sleep(time.Second)
				began := time.Now()
				var wg sync.WaitGroup
				for range 2 {
					wg.Go(func() { client.Close() })
				}
				wg.Wait()
				if took := time.Since(began); took > time.Second {
					t.Errorf("it took %v", took)
				}
				if _, err := client.Receive(t.Context()); !errors.Is(err, heraldclient.ErrClosed) {
					t.Errorf("Receive: %v", err)
				}
				if err := client.SendText(t.Context(), nil); !errors.Is(err, heraldclient.ErrClosed) {
					t.Errorf("SendText: %v", err)
				}
				if err := client.Probe(t.Context()); !errors.Is(err, heraldclient.ErrClosed) {
					t.Errorf("Probe: %v", err)
				}
			})
		})
	}
}

// Retry-After is kept to, and the code and the status are told.
func TestRetryAfter(t *testing.T) {
	for _, test := range []struct {
		status      int
		header      string
		least, most time.Duration
	}{
		{503, "7", 7 * time.Second, 7*time.Second + 16*time.Second},
		{429, "7", 7 * time.Second, 7*time.Second + 16*time.Second},
		{503, "nonsense", 0, 16 * time.Second},
		{503, "-5", 0, 16 * time.Second},
		{503, "Sat, 01 Jan 2000 00:01:00 GMT", 59 * time.Second, 76 * time.Second}, // a bubble begins at 2000-01-01
		{503, "Fri, 31 Dec 1999 00:00:00 GMT", 0, 16 * time.Second},
		{503, "99999999", 5 * time.Minute, 5*time.Minute + 16*time.Second},
		{500, "", 0, time.Second},
	} {
		t.Run(fmt.Sprint(test.status, " ", test.header), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tries := make(chan time.Time, 2)
				client := start(t, heraldclient.Config{URL: "ws://pipe", MinDelay: time.Second, HTTPClient: servePipes(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					select {
					case tries <- time.Now():
					default:
					}
					w.Header().Set("Retry-After", test.header)
					w.WriteHeader(test.status)
				}))})
				first, second := <-tries, <-tries
				if d := second.Sub(first); d < test.least || d > test.most {
					t.Errorf("it tried again after %v, not between %v and %v", d, test.least, test.most)
				}
				var refused *heraldclient.CloseError
				if e := await[heraldclient.Disconnected](t, client); !errors.As(e.Err, &refused) || refused.Code != 4000+test.status {
					t.Errorf("%v", e.Err)
				}
			})
		})
	}
}
