package rabbitbus_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/bus/rabbitbus"
	"github.com/heraldgo/herald/internal/test/netproxy"
	"github.com/heraldgo/herald/internal/test/servertest"
)

// Whatever breaks a link, loss lies in gaps, nothing comes twice, and all is
// well again by itself.
func TestFaults(t *testing.T) {
	server := broker(t)
	for name, fault := range map[string]func(r *rig){
		"cut": func(r *rig) { r.proxy.Cut() },
		"cut again and again": func(r *rig) {
			for range 5 {
				r.proxy.Cut()
				r.Await("life", func() bool { return r.to.Health() == nil })
			}
		},
		"black hole": func(r *rig) { r.proxy.Blackhole(true); r.AwaitGap(); r.proxy.Blackhole(false) },
		"reset":      func(r *rig) { r.to.Reset() },
		"reset of the publisher": func(r *rig) {
			r.from.Reset()
			r.to.Reset()
		},
		"exchange deleted": func(r *rig) {
			if err := operator(r, server).ExchangeDelete(r.exchange, false, false); err != nil {
				r.Fatal(err)
			}
		},
		"queues deleted": func(r *rig) {
			ofQueues(r, server, r.exchange, "rabbit_amqqueue:delete_immediately([amqqueue:get_pid(Q)])")
		},
		"queues unbound":  func(r *rig) { ofQueues(r, server, r.exchange, `rabbit_binding:remove(B, <<"operator">>)`) },
		"queues purged":   func(r *rig) { r.hole() },
		"unknown message": func(r *rig) { r.inject([]byte{2, 0, 0}) },
		"garbage": func(r *rig) {
			r.inject(append(make([]byte, 0, 64), "\x01aaaaaaaabbbbbbbbcccccccc\x05topic\xff\xff\xff\xff\xff"...))
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, server)
			fault(r)
			r.AwaitGap()
			r.Check()
		})
	}
}

// inject publishes a message that no Bus wrote.
func (r *rig) inject(body []byte) {
	r.Helper()
	publishTo(r, operator(r, r.server), r.exchange, body)
}

// hole lets a message come that is not the next one of its publisher.
func (r *rig) hole() {
	r.inject(append([]byte("\x01publishe"), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1))
	r.inject(append([]byte("\x01publishe"), 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3))
}

// The exchange and the queue that keep the order are made anew, and Publish
// tells what it did not get through.
func TestOrderDeleted(t *testing.T) {
	server := broker(t)
	for name, fault := range map[string]func(r *rig){
		"queue": func(r *rig) {
			ofQueues(r, server, r.exchange+".order", "rabbit_amqqueue:delete_immediately([amqqueue:get_pid(Q)])")
		},
		"queue unbound": func(r *rig) {
			ofQueues(r, server, r.exchange+".order", `rabbit_binding:remove(B, <<"operator">>)`)
		},
		"exchange": func(r *rig) {
			if err := operator(r, server).ExchangeDelete(r.exchange+".order", false, false); err != nil {
				r.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, server)
			fault(r)
			r.Check()
		})
	}
}

// A node that leaves hands over the queue that keeps the order: nothing is
// lost, and nobody sees an error.
func TestHandOver(t *testing.T) {
	server := broker(t)
	for range 5 {
		exchange := rand.Text()
		first := open(t, server.Addr, quick(exchange)) // it has to claim the queue
		r := newRigOn(t, server, exchange)
		first.Close()
		if got := r.Check(); got.Failed > 0 || got.Lost > 0 || len(got.Gaps) > 0 {
			t.Errorf("got %+v", got)
		}
	}
}

// When the node that keeps the order dies, another takes over.
func TestTakeOver(t *testing.T) {
	server := broker(t)
	exchange := rand.Text()
	proxy := netproxy.Start(t, server.Addr)
	open(t, proxy.Addr, quick(exchange))
	r := newRigOn(t, server, exchange)
	for range 10 {
		proxy.Cut()
		if got := r.Check(); got.Failed > 0 {
			t.Errorf("%d packets not published", got.Failed)
		}
	}
}

func TestServer(t *testing.T) {
	server := servertest.RabbitMQ(t)
	t.Run("memory alarm", func(t *testing.T) { testMemoryAlarm(t, server) })
	for _, step := range []struct {
		name  string
		fault func(r *rig)
	}{
		{"hangs", func(r *rig) {
			server.Pause()
			r.AwaitGap()
			server.Continue()
		}},
		{"killed, comes back", func(r *rig) {
			server.Kill()
			r.AwaitGap()
			r.Await("ErrBusDown of Publish", func() bool {
				err := r.to.Publish(r.Context(), herald.Packet{Topic: "none"})
				if err == nil {
					r.Error("Publish without a server returned nil")
				}
				return errors.Is(err, herald.ErrBusDown) && !errors.Is(err, herald.ErrUnknown)
			})
			server.Restart()
		}},
		{"stopped, comes back", func(r *rig) {
			server.Stop()
			r.AwaitGap()
			server.Restart()
		}},
	} {
		t.Run(step.name, func(t *testing.T) {
			r := newRig(t, server)
			step.fault(r)
			r.Check()
		})
	}
}

// A message whose confirm is lost is one copy, and unknown.
func TestConfirmLost(t *testing.T) {
	server := broker(t)
	proxy := netproxy.Start(t, server.Addr)
	options := func() *rabbitbus.Options {
		return &rabbitbus.Options{Exchange: t.Name(), ProbeInterval: -1, ProbeTimeout: 2 * time.Second}
	}
	to := open(t, server.Addr, options())
	from := open(t, proxy.Addr, options())
	if err := to.Subscribe(t.Context(), "topic"); err != nil {
		t.Fatal(err)
	}
	publish := func(data string) error {
		return from.Publish(t.Context(), herald.Packet{Topic: "topic", Data: []byte(data)})
	}
	for i := range 3 {
		want := fmt.Sprint("unknown ", i)
		proxy.Find("herald publisher").Mute(true)
		if err := publish(want); !errors.Is(err, herald.ErrUnknown) || errors.Is(err, herald.ErrBusDown) {
			t.Errorf("Publish without a confirm returned %v, want ErrUnknown", err)
		}
		expect(t, to, want)
		for err := publish("known"); err != nil; err = publish("known") {
			if !errors.Is(err, herald.ErrBusDown) || errors.Is(err, herald.ErrUnknown) {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Millisecond)
		}
		expect(t, to, "known")
	}
}

// expect receives a packet with the data, and nothing before it.
func expect(t *testing.T, bus *rabbitbus.Bus, data string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	e, err := bus.Receive(ctx)
	if err != nil || string(e.Packet.Data) != data {
		t.Fatalf("got %+v, %v, want %q", e, err, data)
	}
}

// Whoever gives up while nothing was sent is told so.
func TestPublishGivesUp(t *testing.T) {
	server := broker(t)
	proxy := netproxy.Start(t, server.Addr)
	bus := open(t, proxy.Addr, &rabbitbus.Options{Exchange: t.Name(), ProbeInterval: -1, ProbeTimeout: 20 * time.Second})
	proxy.Blackhole(true)
	proxy.Cut()
	for bus.Health() == nil {
		time.Sleep(time.Millisecond)
	}
	for {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		err := bus.Publish(ctx, herald.Packet{Topic: "topic"})
		cancel()
		if err == nil || errors.Is(err, herald.ErrUnknown) {
			t.Fatalf("Publish without a link returned %v", err)
		}
		if errors.Is(err, context.DeadlineExceeded) && errors.Is(err, herald.ErrBusDown) {
			break // it was waiting for the link to be dialed
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := bus.Subscribe(ctx, "topic"); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, herald.ErrBusDown) {
		t.Errorf("Subscribe without a link returned %v", err)
	}
}

// While RabbitMQ is short of memory Publish returns in its time, Health is
// red, and what was written before that comes once.
func testMemoryAlarm(t *testing.T, server *servertest.Server) {
	bus := open(t, server.Addr, quick("herald"))
	if err := bus.Subscribe(t.Context(), "topic"); err != nil {
		t.Fatal(err)
	}
	server.RabbitMQCtl("set_vm_memory_high_watermark", "absolute", "1MB")
	maybe := map[string]bool{}
	for n := 0; ; n++ {
		data := fmt.Sprint(n)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		err := bus.Publish(ctx, herald.Packet{Topic: "topic", Data: []byte(data)})
		cancel()
		if err == nil || errors.Is(err, herald.ErrUnknown) {
			maybe[data] = err == nil
		}
		if errors.Is(err, herald.ErrBusDown) && !errors.Is(err, herald.ErrUnknown) && !errors.Is(err, context.DeadlineExceeded) {
			t.Log(err)
			break // nothing is written any more, and nobody waits
		}
	}
	if err := bus.Health(); err == nil {
		t.Error("Health is nil while RabbitMQ blocks")
	} else {
		t.Log(err)
	}
	server.RabbitMQCtl("set_vm_memory_high_watermark", "0.4")
	for {
		err := bus.Publish(t.Context(), herald.Packet{Topic: "topic", Data: []byte("end")})
		if err == nil {
			break
		}
		if errors.Is(err, herald.ErrUnknown) {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	for {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		e, err := bus.Receive(ctx)
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		if e.Kind != herald.EventPacket {
			t.Fatalf("got %+v: the link that consumes is not blocked", e)
		}
		data := string(e.Packet.Data)
		if data == "end" {
			break
		}
		if _, ok := maybe[data]; !ok {
			t.Errorf("got %q again, or though it was not taken", data)
		}
		delete(maybe, data)
	}
	for data, taken := range maybe {
		if taken {
			t.Errorf("%q was taken and did not come", data)
		}
	}
	for bus.Health() != nil {
		time.Sleep(10 * time.Millisecond)
	}
}
