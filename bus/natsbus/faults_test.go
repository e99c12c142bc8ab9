package natsbus_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/test/netproxy"
	"github.com/heraldgo/herald/internal/test/servertest"
)

// What is published while the server is away is refused, and not published
// later.
func TestServerKilled(t *testing.T) {
	server := servertest.NATS(t)
	options := quick()
	a, b := open(t, server.Addr, options), open(t, server.Addr, options)
	a.subscribe("topic")
	b.subscribe("topic")
	a.publish("topic", "before")
	b.awaitPacket("before")

	server.Kill()
	b.awaitKind(herald.EventDown, 1)
	var refused []string
	for i := range 20 {
		data := fmt.Sprint("lost ", i)
		if err := a.try("topic", data); !mayBeTaken(err) {
			if !errors.Is(err, herald.ErrBusDown) {
				t.Errorf("Publish while the server is away: %v, want ErrBusDown", err)
			}
			refused = append(refused, data)
		}
	}
	if len(refused) < 19 {
		t.Errorf("%d of 20 publishes were refused: one at most may have been under way", len(refused))
	}
	waiting := make(chan error, 1)
	go func() { waiting <- b.Subscribe(b.context(), "new") }()

	server.Restart()
	if err := <-waiting; err != nil {
		t.Errorf("Subscribe while the server was away: %v", err)
	}
	b.awaitKind(herald.EventRestored, 1)
	a.awaitKind(herald.EventRestored, 1)
	a.publishAgain("topic", "after")
	a.publishAgain("new", "new")
	for _, r := range []*rig{a, b} {
		r.awaitPacket("after")
		for _, data := range refused {
			if r.count(herald.EventPacket, data) > 0 {
				t.Errorf("%q arrived, though Publish had refused it", data)
			}
		}
	}
	b.awaitPacket("new")
	a.awaitHealthy()
}

// A server that hangs is noticed; what it took before is not published twice.
func TestServerPaused(t *testing.T) {
	server := servertest.NATS(t)
	options := quick()
	a, b := open(t, server.Addr, options), open(t, server.Addr, options)
	b.subscribe("topic")
	a.publish("topic", "before")
	b.awaitPacket("before")
	noted := time.Now()

	server.Pause()
	defer server.Continue()
	var taken []string
	for i := 0; ; i++ { // the server has threads that stop one after the other
		data := fmt.Sprint("during ", i)
		taken = append(taken, data)
		if err := a.try("topic", data); err != nil {
			if !errors.Is(err, herald.ErrUnknown) {
				t.Errorf("Publish to a server that hangs: %v, want ErrUnknown", err)
			}
			break
		}
	}
	b.awaitKind(herald.EventDown, 1)
	if down := b.first(herald.EventDown); down.Since.After(noted.Add(patience)) || down.Since.IsZero() {
		t.Errorf("the gap begins at %v", down.Since)
	}
	a.awaitRed()

	server.Continue()
	b.awaitKind(herald.EventRestored, 1)
	a.publishAgain("topic", "after")
	b.awaitPacket("after")
	for _, data := range taken {
		if n := b.count(herald.EventPacket, data); n > 1 {
			t.Errorf("%q arrived %d times", data, n)
		}
	}
	a.awaitHealthy()
	b.awaitHealthy()
}

// A link that loses everything without a word is noticed, and so is one that
// can be connected and says nothing.
func TestBlackhole(t *testing.T) {
	server := servertest.NATS(t)
	proxy := netproxy.Start(t, server.Addr)
	options := quick()
	options.NATS = []nats.Option{nats.Timeout(500 * time.Millisecond)}
	a, b := open(t, server.Addr, options), open(t, proxy.Addr, options)
	b.subscribe("topic")
	a.publish("topic", "before")
	b.awaitPacket("before")

	proxy.Blackhole(true)
	began := time.Now()
	a.publish("topic", "lost")
	b.awaitKind(herald.EventDown, 1)
	if down := b.first(herald.EventDown); !down.Since.Before(began) {
		t.Errorf("the gap begins at %v, after what was lost at %v", down.Since, began)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if err := b.Subscribe(ctx, "other"); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, herald.ErrBusDown) {
		t.Errorf("Subscribe in the hole: %v", err)
	}
	proxy.Blackhole(false)
	b.awaitKind(herald.EventRestored, 1)
	a.publish("topic", "after")
	b.awaitPacket("after")
	if b.count(herald.EventPacket, "lost") > 0 {
		t.Error("what the hole swallowed arrived")
	}
}

// A confirmation that is lost is ErrUnknown, and the packet comes once.
func TestConfirmationLost(t *testing.T) {
	server := servertest.NATS(t)
	proxy := netproxy.Start(t, server.Addr)
	options := quick()
	options.ProbeInterval = -1
	a, b := open(t, proxy.Addr, options), open(t, server.Addr, options)
	b.subscribe("topic")
	link := proxy.Find("PUB ")
	link.Mute(true)
	result := make(chan error, 1)
	go func() { result <- a.try("topic", "once") }()
	b.awaitPacket("once")
	link.Cut()
	if err := <-result; !errors.Is(err, herald.ErrUnknown) {
		t.Errorf("Publish without a confirmation: %v, want ErrUnknown", err)
	}
	a.publishAgain("topic", "after")
	b.awaitPacket("after")
	if n := b.count(herald.EventPacket, "once"); n != 1 {
		t.Errorf("the packet arrived %d times", n)
	}
	if n := a.count(herald.EventDown, ""); n > 0 {
		t.Errorf("the loss of the publishing link alone is no gap; got %d", n)
	}
}

// A server that asks for signs of life gets them, also if no proofs are made.
func TestServerPings(t *testing.T) {
	server := servertest.NATS(t, "-c", config(t, `ping_interval: "50ms", ping_max: 1`))
	options := quick()
	options.ProbeInterval = -1
	a := open(t, server.Addr, options)
	a.subscribe("topic")
	time.Sleep(time.Second) // the server gives up after two intervals
	a.publish("topic", "heard")
	a.awaitPacket("heard")
	if n := a.count(herald.EventDown, ""); n > 0 {
		t.Errorf("%d gaps: %v", n, a.first(herald.EventDown).Err)
	}
}

// A subscription that the server has forgotten is noticed, also several times
// in a row.
func TestDeaf(t *testing.T) {
	server := servertest.NATS(t)
	proxy := netproxy.Start(t, server.Addr)
	a := open(t, proxy.Addr, quick())
	for i := range 4 {
		if err := proxy.Find("SUB ").Inject([]byte("UNSUB 1\r\n")); err != nil {
			t.Fatal(err)
		}
		a.awaitKind(herald.EventRestored, i+1)
	}
	if err := a.first(herald.EventDown).Err; !strings.Contains(err.Error(), "did not hand it over") {
		t.Errorf("the reason is %v", err)
	}
	a.awaitHealthy()
}

// A server that cuts a slow subscriber off makes a gap, and publishing goes on.
func TestSlowConsumerCut(t *testing.T) {
	server := servertest.NATS(t, "-c", config(t, `max_pending: 2MB, write_deadline: "1s"`))
	dialer := &stallingDialer{}
	options := quick()
	options.ProbeInterval = -1 // or a proof would find it first
	options.NATS = []nats.Option{nats.SetCustomDialer(dialer)}
	a := open(t, server.Addr, options)
	a.subscribe("topic")
	a.publish("topic", "before")
	a.awaitPacket("before")

	gate := dialer.stall("SUB ")
	data := strings.Repeat("x", 1<<20)
	for range 64 {
		a.publish("topic", data)
	}
	close(gate)
	a.awaitKind(herald.EventRestored, 1)
	if a.count(herald.EventPacket, data) >= 64 {
		t.Error("nothing was lost: the server did not cut the link")
	}
	a.publish("topic", "after")
	a.awaitPacket("after")
}

// A stallingDialer makes connections that can stop reading.
type stallingDialer struct {
	mu    sync.Mutex
	conns []*stallingConn
}

type stallingConn struct {
	net.Conn

	mu      sync.Mutex
	written string        // the beginnings of what was written
	gate    chan struct{} // closed to read on; nil if nothing stops
}

func (d *stallingDialer) Dial(network, address string) (net.Conn, error) {
	conn, err := net.Dial(network, address)
	if err != nil {
		return nil, err
	}
	c := &stallingConn{Conn: conn}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.conns = append(d.conns, c)
	return c, nil
}

// stall stops the connections that have sent text from reading, until the
// channel that it returns is closed.
func (d *stallingDialer) stall(text string) chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	gate := make(chan struct{})
	for _, c := range d.conns {
		c.mu.Lock()
		if strings.Contains(c.written, text) {
			c.gate = gate
		}
		c.mu.Unlock()
	}
	return gate
}

func (c *stallingConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.mu.Lock()
	gate := c.gate
	c.mu.Unlock()
	if gate != nil {
		<-gate
	}
	return n, err
}

func (c *stallingConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	c.written += string(p[:min(len(p), 100)])
	c.mu.Unlock()
	return c.Conn.Write(p)
}
