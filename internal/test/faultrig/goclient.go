package faultrig

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/heraldgo/herald/heraldclient"
)

// A network is the way from a device in this process to its node. It can be cut and
// stalled.
type network struct {
	mu      sync.Mutex
	isCut   bool
	stalled chan struct{} // closed when the stall ends; nil if there is none
	conn    net.Conn
}

func (n *network) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.isCut {
		c.Close()
		return nil, errors.New("cut")
	}
	n.conn = c
	return &networkConn{c, n}, nil
}

func (n *network) cut(on bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.isCut = on
	if on && n.conn != nil {
		n.conn.Close()
	}
}

func (n *network) stall(on bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if on && n.stalled == nil {
		n.stalled = make(chan struct{})
	} else if !on && n.stalled != nil {
		close(n.stalled)
		n.stalled = nil
	}
}

// A networkConn blocks reads while its network is stalled.
type networkConn struct {
	net.Conn
	network *network
}

func (c *networkConn) Read(b []byte) (int, error) {
	c.network.mu.Lock()
	stalled := c.network.stalled
	c.network.mu.Unlock()
	if stalled != nil {
		<-stalled
	}
	return c.Conn.Read(b)
}

func (n *network) web() *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: n.dial, DisableKeepAlives: true}}
}

// A goDevice runs heraldclient.
type goDevice struct {
	network
	*device
}

func (d *goDevice) run(ctx context.Context) {
	client, err := heraldclient.New(heraldclient.Config{
		Endpoint:   func(context.Context) (string, http.Header, error) { return d.choose(), nil, nil },
		HTTPClient: d.web(),
		MinDelay:   time.Millisecond, MaxDelay: 100 * time.Millisecond,
		Timeout: patience,
		Logger:  slog.New(slog.DiscardHandler),
	})
	if err != nil {
		d.trial.t.Error(err)
		return
	}
	defer client.Close()
	defer d.network.stall(false)
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
			d.take(e.Data, 0)
		case heraldclient.Gap:
			d.note(happening{gap: true})
		case heraldclient.Connected:
			d.note(happening{on: true, resumed: e.Resumed})
		case heraldclient.Disconnected:
			d.note(happening{off: true})
		}
	}
}

// A plainDevice runs a plain client.
type plainDevice struct {
	network
	*device
}

func (d *plainDevice) run(ctx context.Context) {
	web := d.web()
	for ctx.Err() == nil {
		d.visit(ctx, web)
		pause(ctx, 20*time.Millisecond)
	}
}

// visit opens a connection and reads from it until it ends.
func (d *plainDevice) visit(ctx context.Context, web *http.Client) {
	if d.away.Load() {
		return
	}
	at := strings.Replace(d.choose(), "http", "ws", 1)
	conn, _, err := websocket.Dial(ctx, at, &websocket.DialOptions{
		HTTPClient: web, CompressionMode: websocket.CompressionNoContextTakeover,
	})
	if err != nil {
		return
	}
	defer conn.CloseNow()
	d.note(happening{on: true})
	for {
		_, data, err := conn.Read(ctx)
		if err != nil {
			break
		}
		d.take(data, 0)
	}
	if ctx.Err() == nil {
		d.note(happening{off: true})
	}
}
