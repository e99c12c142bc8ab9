package kafkabus_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/bus/kafkabus"
)

// A pair is a Bus behind proxies that publishes, and one that receives.
type pair struct {
	*testing.T
	*broker
	from, to *kafkabus.Bus
}

func newPair(t *testing.T, options kafkabus.Options) *pair {
	b := startFake(t)
	p := &pair{T: t, broker: b, from: b.open(options)}
	t.Cleanup(func() { p.from.Close() })
	var err error
	if p.to, err = kafkabus.New(b.seeds(), nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.to.Close() })
	if err := p.to.Subscribe(t.Context(), "topic"); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *pair) publish(data string) error {
	return p.from.Publish(p.Context(), herald.Packet{Topic: "topic", Data: []byte(data)})
}

// expect receives packets, and fails if they are others.
func (p *pair) expect(want ...string) {
	p.T.Helper()
	ctx, cancel := context.WithTimeout(p.Context(), patience)
	defer cancel()
	for _, data := range want {
		e, err := p.to.Receive(ctx)
		if err != nil || string(e.Packet.Data) != data {
			p.T.Fatalf("got %+v, %v; want %q", e, err, data)
		}
	}
}

// mute swallows the answers on the connection that has published data.
func (p *pair) mute(data string) (cut func()) {
	p.T.Helper()
	for _, proxy := range p.proxies {
		if c := proxy.Find(data); c != nil {
			c.Mute(true)
			return c.Cut
		}
	}
	p.T.Fatalf("no connection has published %q", data)
	return nil
}

// A record whose answer is lost with its connection is sent again under its
// number, and taken once.
func TestAnswerLost(t *testing.T) {
	p := newPair(t, patient)
	if err := p.publish("first"); err != nil {
		t.Fatal(err)
	}
	p.expect("first")
	cut := p.mute("first")
	result := make(chan error)
	go func() { result <- p.publish("second") }()
	p.expect("second") // so it has been taken
	cut()
	if err := <-result; err != nil {
		t.Errorf("publish: %v", err)
	}
	if err := p.publish("third"); err != nil {
		t.Error(err)
	}
	p.expect("third")
}

// If no answer comes at all, the outcome is unknown, and nothing comes
// twice or late.
func TestNoAnswer(t *testing.T) {
	o := quick
	o.ProbeInterval = -1
	p := newPair(t, o)
	if err := p.publish("first"); err != nil {
		t.Fatal(err)
	}
	p.expect("first")
	p.mute("first")
	if err := p.publish("second"); !errors.Is(err, herald.ErrUnknown) || errors.Is(err, herald.ErrBusDown) {
		t.Errorf("publish: %v, want ErrUnknown", err)
	}
	if err := p.publish("third"); err != nil {
		t.Error(err)
	}
	p.expect("second", "third")
}

// What a call gave up is not published later.
func TestGivenUp(t *testing.T) {
	o := quick
	o.ProbeInterval = -1
	p := newPair(t, o)
	if err := p.publish("first"); err != nil {
		t.Fatal(err)
	}
	p.blackhole(true)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := p.from.Publish(ctx, herald.Packet{Topic: "topic", Data: []byte("given up")})
	if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, herald.ErrUnknown) {
		t.Errorf("publish: %v, want the context's error and ErrUnknown", err)
	}
	if err := p.publish("too late"); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("publish: %v", err)
	}
	p.blackhole(false)
	for err = p.publish("last"); err != nil; err = p.publish("last") {
		t.Log(err)
		if t.Context().Err() != nil {
			t.Fatal(err)
		}
	}
	p.expect("first", "last")
}

// Without any connection it is known that nothing was sent.
func TestNothingSent(t *testing.T) {
	o := quick
	o.ProbeInterval = -1
	p := newPair(t, o)
	p.stop()
	deadline := time.Now().Add(patience)
	for {
		err := p.publish("never")
		if errors.Is(err, herald.ErrBusDown) && !errors.Is(err, herald.ErrUnknown) {
			break
		}
		if err == nil || time.Now().After(deadline) {
			t.Fatalf("publish: %v, want ErrBusDown", err)
		}
	}
}

// A packet that is too large harms no other.
func TestTooLarge(t *testing.T) {
	p := newPair(t, patient)
	var publishing sync.WaitGroup
	for range 20 {
		publishing.Go(func() {
			if err := p.publish("small"); err != nil {
				t.Errorf("a small packet: %v", err)
			}
		})
		publishing.Go(func() {
			err := p.publish(string(make([]byte, 3<<20)))
			if !errors.Is(err, kerr.MessageTooLarge) || errors.Is(err, herald.ErrUnknown) || errors.Is(err, herald.ErrBusDown) {
				t.Errorf("a packet of 3 MiB: %v", err)
			}
		})
	}
	publishing.Wait()
	for range 20 {
		p.expect("small")
	}
	small, large := herald.Packet{Topic: "topic", Data: []byte("small")}, herald.Packet{Topic: "topic", Data: make([]byte, 3<<20)}
	if err := p.from.Publish(t.Context(), small, large); !errors.Is(err, herald.ErrUnknown) {
		t.Errorf("a small packet and a large one: %v, want ErrUnknown", err)
	}
	p.expect("small")
}

// Publish under way, and later, ends with Close.
func TestCloseWhilePublishing(t *testing.T) {
	p := newPair(t, patient)
	p.blackhole(true)
	result := make(chan error)
	for range 10 {
		go func() { result <- p.publish("perhaps") }()
	}
	p.from.Close()
	for range 10 {
		if err := <-result; !errors.Is(err, herald.ErrClosed) {
			t.Errorf("publish: %v, want ErrClosed", err)
		}
	}
}
