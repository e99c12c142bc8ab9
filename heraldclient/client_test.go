package heraldclient_test

import (
	"context"
	"errors"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heraldgo/herald/heraldclient"
)

// only returns the Config of a client of one server.
func only(h *http.Client) heraldclient.Config {
	return heraldclient.Config{URL: "ws://pipe", HTTPClient: h, MinDelay: time.Second}
}

// A Config that breaks a rule is refused, with the field's name.
func TestConfig(t *testing.T) {
	const url = "wss://example.com/ws"
	for field, config := range map[string]heraldclient.Config{
		"URL":       {URL: "ftp://example.com"},
		"Resume":    {URL: url, Resume: "0.x"},
		"ReadLimit": {URL: url, ReadLimit: -1},
		"Timeout":   {URL: url, Timeout: time.Millisecond},
		"MaxDelay":  {URL: url, MaxDelay: time.Millisecond},
	} {
		if _, err := heraldclient.New(config); err == nil || !strings.Contains(err.Error(), "Config."+field+":") {
			t.Errorf("%s: %v", field, err)
		}
	}
	for _, config := range []heraldclient.Config{
		{}, {URL: "/ws"}, {URL: url, MinDelay: -1}, {URL: url, MaxDelay: math.MaxInt64},
	} {
		if _, err := heraldclient.New(config); err == nil {
			t.Errorf("%+v was taken", config)
		}
	}
}

// A message shows that the Hub serves: the next try comes soon. A Hub that only lets in,
// or only says that nothing was missed, is spared.
func TestReset(t *testing.T) {
	for name, frames := range map[string][]string{
		"": nil, "a welcome": {welcome}, "a message": {welcome, "m\nHello"}, "a bare message": {"Hello"},
		"a resume":                   {welcome, "p 0.a.1 complete\n"},
		"a resume in part":           {welcome, "g {}\n", "p 0.a.1 incomplete\n"},
		"a resume with a message":    {welcome, "m 0.a.2\nmissed", "p 0.a.2 complete\n"},
		"a frame of a later version": {welcome, "x 1\n"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var mu sync.Mutex
				var tries []time.Time
				start(t, only(servePeers(t, func(i int, p *peer) {
					mu.Lock()
					tries = append(tries, time.Now())
					mu.Unlock()
					for _, f := range frames {
						p.send(f)
					}
					time.Sleep(time.Millisecond)
				})))
				time.Sleep(20 * time.Minute)
				mu.Lock()
				defer mu.Unlock()
				longest := time.Duration(0)
				for i := range tries[1:] {
					longest = max(longest, tries[i+1].Sub(tries[i]))
				}
				serves := strings.Contains(name, "message")
				if len(tries) < 20 || serves != (longest <= 2*time.Second) {
					t.Errorf("%d tries, and the longest pause was %v", len(tries), longest)
				}
			})
		})
	}
}

// Text that begins with "@" is not taken for control, if the Hub knows control.
func TestSend(t *testing.T) {
	for first, want := range map[string][]string{
		welcome: {"Hello", "", "@@bob", "@@@", "@@?1", "@binary"},
		"plain": {"Hello", "", "@bob", "@@", "@?1", "@binary"},
	} {
		synctest.Test(t, func(t *testing.T) {
			heard := make(chan []string, 1)
			client := start(t, only(servePeers(t, func(i int, p *peer) {
				time.Sleep(time.Second) // SendText waits until it is known what the Hub speaks
				p.send(first)
				p.await()
				heard <- p.heard()
			})))
			for _, text := range []string{"Hello", "", "@bob", "@@", "@?1"} {
				if err := client.SendText(t.Context(), []byte(text)); err != nil {
					t.Fatal(err)
				}
			}
			if err := client.SendBinary(t.Context(), []byte("@binary")); err != nil {
				t.Fatal(err)
			}
			client.Close()
			if got := <-heard; !slices.Equal(got, want) {
				t.Errorf("the Hub heard %q, not %q", got, want)
			}
		})
	}
}

// A call gives up with its context, and the Client goes on.
func TestContexts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := start(t, only(serveRawPipes(t, func(i int, c *raw) { c.stall() })))
		for name, call := range map[string]func(context.Context) error{
			"Receive":  func(ctx context.Context) error { _, err := client.Receive(ctx); return err },
			"SendText": func(ctx context.Context) error { return client.SendText(ctx, nil) },
			"Probe":    client.Probe,
		} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if err := call(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v", name, err)
			}
			cancel()
		}
	})
}

// What was processed is acknowledged, and not what was only received.
func TestAcknowledge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peers := make(chan *peer, 1)
		client := start(t, only(servePeers(t, func(i int, p *peer) {
			p.send(welcome)
			for n := 2; n <= 100; n++ {
				p.send("m 0.a." + strconv.Itoa(n) + "\nx")
			}
			peers <- p
			p.await()
		})))
		next(t, client)
		p := <-peers
		for n := 2; n <= 100; n++ {
			next(t, client)
			if n < 5 {
				time.Sleep(10 * time.Second)
				if said := p.heard(); len(said) != n-2 || n > 2 && said[n-3] != "@ 0.a."+strconv.Itoa(n-1) {
					t.Fatalf("with message %d received, the Hub has heard %q", n, said)
				}
				if at := client.Position(); !strings.HasPrefix(at, "0.a."+strconv.Itoa(n-1)) {
					t.Fatalf("with message %d received, it is at %q", n, at)
				}
			}
		}
		go client.Receive(t.Context())
		time.Sleep(10 * time.Second)
		if said := p.heard(); len(said) > 6 || said[len(said)-1] != "@ 0.a.100" {
			t.Errorf("in the end the Hub has heard %q", said)
		}
	})
}

// What is processed when the Client closes is acknowledged before it goes.
func TestAcknowledgeAtClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peers := make(chan *peer, 1)
		client := start(t, only(servePeers(t, func(i int, p *peer) {
			p.send(welcome)
			for n := 2; n <= 4; n++ {
				p.send("m 0.a." + strconv.Itoa(n) + "\nx")
			}
			p.listen()
			peers <- p
			p.await()
		})))
		next(t, client)
		for range 3 {
			next(t, client)
			synctest.Wait()
		}
		client.Close()
		p := <-peers
		<-p.done
		if said := p.heard(); !slices.Equal(said, []string{"@ 0.a.2", "@ 0.a.3"}) {
			t.Errorf("the Hub has heard %q", said)
		}
	})
}

// What could not be acknowledged before a connection ended is in the next one.
func TestAcknowledgeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peers := make(chan *peer, 1)
		client := start(t, only(servePeers(t, func(i int, p *peer) {
			p.send(welcome)
			if i == 0 {
				p.send("m 0.a.2\nHello")
				time.Sleep(time.Minute) // it reads nothing, so nothing can be written
				return
			}
			peers <- p
			p.await()
		})))
		for range 2 { // connected, and the message
			next(t, client)
		}
		await[heraldclient.Connected](t, client) // so the message is processed
		p := <-peers
		time.Sleep(10 * time.Second)
		if said := p.heard(); !slices.Equal(said, []string{"@ 0.a.2"}) {
			t.Errorf("the Hub has heard %q", said)
		}
	})
}

// A message above the ReadLimit is not acknowledged, and neither is what came after it,
// until nobody can wait for its receipt any more. The Client's position goes on.
func TestAcknowledgeTooLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peers := make(chan *peer, 1)
		config := only(servePeers(t, func(i int, p *peer) {
			p.send(welcome)
			for n := 2; n <= 7; n++ {
				text := "x"
				if n == 4 || n == 6 {
					text = strings.Repeat("x", 100)
				}
				p.send("m 0.a." + strconv.Itoa(n) + "\n" + text)
			}
			peers <- p
			p.await()
		}))
		config.ReadLimit = 100
		client := start(t, config)
		next(t, client)
		p := <-peers
		expect := func(want string) {
			t.Helper()
			time.Sleep(10 * time.Second)
			if said := p.heard(); len(said) == 0 || said[len(said)-1] != want {
				t.Errorf("the Hub has heard %q, and not %q in the end", said, want)
			}
		}
		for n := 2; n <= 5; n++ {
			next(t, client)
		}
		expect("@ 0.a.3")
		next(t, client) // so what came up to 5 is processed
		expect("@ 0.a.3")
		if at := client.Position(); !strings.HasPrefix(at, "0.a.5") {
			t.Errorf("it is at %q", at)
		}
		time.Sleep(30 * time.Second)
		next(t, client) // and 6, which takes a minute of its own
		expect("@ 0.a.3")
		go client.Receive(t.Context())
		time.Sleep(30 * time.Second)
		expect("@ 0.a.3")
		time.Sleep(10 * time.Second)
		expect("@ 0.a.7")
	})
}

// A probe is answered, or the Client makes another connection.
func TestProbe(t *testing.T) {
	for _, test := range []struct {
		name  string
		first []string
		deaf  bool
	}{
		{"history", []string{welcome}, false},
		{"plain", []string{"Hello"}, false},
		{"history, deaf", []string{welcome}, true},
		{"plain, deaf", []string{"Hello"}, true},
		{"another answer", []string{welcome, "! 7\n"}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client := start(t, only(serveRawPipes(t, func(i int, c *raw) {
					c.deaf()
					c.write(c.upgrade())
					for _, f := range test.first {
						c.write(text("%s", f))
					}
					c.stall()
				})))
				if !test.deaf {
					client.Close()
					client = start(t, only(servePeers(t, func(i int, p *peer) {
						p.send(test.first[0])
						p.await()
					})))
				}
				next(t, client)
				canceled, cancel := context.WithCancel(t.Context())
				time.AfterFunc(time.Second, cancel)
				ctx, done := context.WithTimeout(t.Context(), 2*time.Second)
				defer done()
				if !test.deaf {
					for range 3 {
						if err := client.Probe(ctx); err != nil {
							t.Fatal(err)
						}
					}
					return
				}
				// Who does not want to know any more says nothing of the connection.
				if err := client.Probe(canceled); !errors.Is(err, context.Canceled) {
					t.Errorf("canceled: %v", err)
				}
				if err := client.Probe(ctx); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("%v", err)
				}
				began := time.Now()
				await[heraldclient.Disconnected](t, client)
				if time.Since(began) > time.Second {
					t.Errorf("it gave up the connection after %v", time.Since(began))
				}
			})
		})
	}
}

// A probe that waits when the connection ends is told so.
func TestProbeEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := start(t, only(servePeers(t, func(i int, p *peer) {
			p.send(welcome)
			time.Sleep(time.Second)
		})))
		next(t, client)
		if err := client.Probe(t.Context()); err == nil || errors.Is(err, heraldclient.ErrClosed) {
			t.Errorf("%v", err)
		}
	})
}

// A newer connection in the Client's place is the end of it; and an Endpoint is
// asked for a new token before each try.
func TestCodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		codes := []uint16{4401, 4410, 1012, 4409}
		var asked, served []string
		h := serveRawPipes(t, func(i int, c *raw) {
			served = append(served, c.query.Get("token"))
			if i >= len(codes) {
				t.Error("it connects again")
				c.stall()
				return
			}
			c.write(c.upgrade(), closing(codes[i], "because"))
			c.ignore()
		})
		client := start(t, heraldclient.Config{HTTPClient: h, Endpoint: func(context.Context) (string, http.Header, error) {
			asked = append(asked, strconv.Itoa(len(asked)))
			if len(asked) == 2 {
				return "", nil, errors.New("no token today")
			}
			return "ws://pipe/?token=" + asked[len(asked)-1], nil, nil
		}})
		var err error
		for err == nil {
			_, err = client.Receive(t.Context())
		}
		var e *heraldclient.CloseError
		if !errors.Is(err, heraldclient.ErrReplaced) || !errors.As(err, &e) || e.Code != 4409 || e.Reason != "because" {
			t.Errorf("it ended with %v", err)
		}
		if want := []string{"0", "2", "3", "4"}; !slices.Equal(served, want) {
			t.Errorf("the tokens were %q, not %q", served, want)
		}
		if _, err := client.Receive(t.Context()); !errors.Is(err, heraldclient.ErrReplaced) {
			t.Errorf("once more: %v", err)
		}
		if err := client.SendText(t.Context(), nil); !errors.Is(err, heraldclient.ErrClosed) {
			t.Errorf("SendText: %v", err)
		}
	})
}
