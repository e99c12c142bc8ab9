package resumetest_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/heraldgo/herald/heraldclient"
	"github.com/heraldgo/herald/internal/test/load"
)

// A kind says how a device behaves.
type kind uint8

const (
	stays kind = iota // it can come back, but only has to if its node goes
	roams             // it is cut at random, and comes back to any node
	plain             // it knows nothing of PROTOCOL.md
	kinds
)

// A happening is what a device saw. It has one of these.
type happening struct {
	at      int64 // Unix nanoseconds
	message *load.Receipt
	gap     bool
	on      bool // it is connected
	resumed bool // as it was before
	off     bool // it is not any more
}

// A tape is a device, and all that it has seen.
type tape struct {
	load.Device
	kind  kind
	trial *trial

	cut  atomic.Bool
	conn atomic.Pointer[net.Conn]
	peer atomic.Pointer[peer] // that it goes to, or is on

	mu     sync.Mutex
	events []happening
	fence  int    // the last one that it got
	node   string // of its connection, if it is plain
	on     []visit
}

// A visit is the time that a plain device was on a node: what was sent then it has,
// or the node has told of a gap.
type visit struct {
	node     string
	from, to int64 // to is zero while it lasts
}

func (d *tape) note(h happening) {
	h.at = time.Now().UnixNano()
	d.mu.Lock()
	defer d.mu.Unlock()
	if h.on && d.Since == 0 {
		d.Since = h.at
	}
	d.events = append(d.events, h)
}

func (d *tape) take(data []byte) {
	if r, ok := load.ParseReceipt(data); ok {
		d.note(happening{message: &r})
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	fmt.Sscanf(string(data), "fence %d", &d.fence)
}

func (d *tape) fenced() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.fence
}

// seen returns what has happened to it so far.
func (d *tape) seen() (events []happening, on []visit) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.events), slices.Clone(d.on)
}

// choose returns where it goes: to its node at first, then to any.
func (d *tape) choose() string {
	p := d.peer.Swap(nil)
	if p == nil {
		p = d.trial.any()
	}
	query := url.Values{"user": {d.User}, "group": d.Groups}
	d.node = p.node
	return p.url + "?" + query.Encode()
}

func (d *tape) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if d.cut.Load() {
		return nil, errors.New("cut")
	}
	c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
	if err == nil {
		d.conn.Store(&c)
	}
	return c, err
}

// run runs the device until ctx is done.
func (d *tape) run(ctx context.Context) {
	web := &http.Client{Transport: &http.Transport{DialContext: d.dial, DisableKeepAlives: true}}
	if d.kind == plain {
		for ctx.Err() == nil {
			d.visit(ctx, web)
			pause(ctx, 20*time.Millisecond)
		}
		return
	}
	client, err := heraldclient.New(heraldclient.Config{
		Endpoint:   func(context.Context) (string, http.Header, error) { return d.choose(), nil, nil },
		HTTPClient: web,
		MinDelay:   time.Millisecond, MaxDelay: 100 * time.Millisecond,
		Timeout: patience,
		Logger:  slog.New(slog.DiscardHandler),
	})
	if err != nil {
		d.trial.t.Error(err)
		return
	}
	defer client.Close()
	for {
		event, err := client.Receive(ctx)
		if err != nil {
			if ctx.Err() == nil {
				d.trial.t.Errorf("%v: %v", d, err)
			}
			return
		}
		switch e := event.(type) {
		case heraldclient.Message:
			d.take(e.Data)
		case heraldclient.Gap:
			d.note(happening{gap: true})
		case heraldclient.Connected:
			d.note(happening{on: true, resumed: e.Resumed})
		case heraldclient.Disconnected:
			d.note(happening{off: true})
		}
	}
}

// visit is a connection of a plain device. What comes last may be lost with it.
func (d *tape) visit(ctx context.Context, web *http.Client) {
	at := strings.Replace(d.choose(), "http", "ws", 1)
	conn, _, err := websocket.Dial(ctx, at, &websocket.DialOptions{HTTPClient: web})
	if err != nil {
		return
	}
	defer conn.CloseNow()
	d.note(happening{on: true})
	last := time.Now().UnixNano()
	d.mu.Lock()
	d.on = append(d.on, visit{node: d.node, from: last})
	d.mu.Unlock()
	for {
		_, data, err := conn.Read(ctx)
		if err != nil {
			break
		}
		last = time.Now().UnixNano()
		d.take(data)
	}
	d.note(happening{off: true})
	d.mu.Lock()
	defer d.mu.Unlock()
	if ctx.Err() == nil {
		d.on[len(d.on)-1].to = last
	}
}

// roam cuts the device, and lets it come back, until ctx is done.
func (d *tape) roam(ctx context.Context) {
	defer d.cut.Store(false)
	for ctx.Err() == nil {
		pause(ctx, time.Duration(rand.Int64N(int64(2*time.Second))))
		d.cut.Store(true)
		if c := d.conn.Load(); c != nil {
			(*c).Close()
		}
		pause(ctx, time.Duration(rand.Int64N(int64(time.Second))))
		d.cut.Store(false)
	}
}

// pause lets time pass, which is what a device that is away does.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}
