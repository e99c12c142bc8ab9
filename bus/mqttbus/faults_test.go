package mqttbus_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/bus/mqttbus"
	"github.com/heraldgo/herald/internal/test/netproxy"
	"github.com/heraldgo/herald/internal/test/servertest"
)

func TestFaults(t *testing.T) {
	for name, fault := range map[string]func(r *rig){
		"link cut": func(r *rig) { r.proxy.Cut() },
		"link cut again and again": func(r *rig) {
			for range 5 {
				r.proxy.Cut()
				r.Await("life", func() bool { return r.to.Health() == nil })
			}
		},
		"black hole": func(r *rig) {
			r.proxy.Blackhole(true)
			r.AwaitGap()
			r.proxy.Blackhole(false)
		},
		"nothing from the broker": func(r *rig) {
			r.proxy.Find("herald/topic").Mute(true)
			r.AwaitGap()
		},
		"unsubscribed by someone": func(r *rig) {
			var packet bytes.Buffer
			p := packets.Unsubscribe{PacketID: 1, Topics: []string{"herald/topic"}, Properties: &packets.Properties{}}
			p.WriteTo(&packet)
			if err := r.proxy.Find("herald/topic").Inject(packet.Bytes()); err != nil {
				r.Fatal(err)
			}
			r.AwaitGap()
		},
		"broker killed": func(r *rig) {
			r.server.Kill()
			r.AwaitGap()
			r.server.Restart()
		},
		"broker stopped": func(r *rig) {
			r.server.Stop()
			r.AwaitGap()
			r.server.Restart()
		},
		"broker paused": func(r *rig) {
			r.server.Pause()
			r.AwaitGap()
			r.server.Continue()
		},
	} {
		for _, qos := range []byte{0, 1} {
			t.Run(fmt.Sprint(name, ", QoS ", qos), func(t *testing.T) {
				t.Parallel()
				options := &mqttbus.Options{QoS: qos, ProbeInterval: time.Second / 10, ProbeTimeout: 2 * time.Second}
				r := newRig(t, servertest.Mosquitto(t), "", 0, options)
				time.Sleep(200 * time.Millisecond) // a stream before the fault
				fault(r)
				r.AwaitGap()
				r.Check()
			})
		}
	}
}

// A broker drops what a subscriber does not take quickly enough, and tells
// nobody. It is noticed when the next packet comes.
func TestDroppedByBroker(t *testing.T) {
	for _, qos := range []byte{0, 1} {
		t.Run(fmt.Sprint("QoS ", qos), func(t *testing.T) {
			server := servertest.Mosquitto(t, "max_queued_messages 20", "set_tcp_nodelay true")
			v := newValve(t, server.Addr)
			r := newRig(t, server, v.addr, 100_000, &mqttbus.Options{QoS: qos, ProbeTimeout: time.Minute})
			r.AwaitPackets(20)
			v.shut(true)
			begun := len(r.Published())
			r.Await("a flood", func() bool { return len(r.Published()) > begun+400 })
			v.shut(false)
			r.AwaitGap()
			got := r.Check()
			if got.Lost == 0 {
				t.Error("nothing was lost: was there a fault?")
			}
			for _, gap := range got.Gaps {
				if !strings.Contains(gap.Err.Error(), "dropped packets") {
					t.Errorf("the link was lost: %v", gap.Err)
				}
			}
		})
	}
}

// A valve is a proxy that can stop reading what the broker sends.
type valve struct {
	addr string

	mu   sync.Mutex
	open chan struct{} // closed while it is
}

// newValve starts a valve that takes the targets in turn.
func newValve(t *testing.T, targets ...string) *valve {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	v := &valve{addr: l.Addr().String(), open: make(chan struct{})}
	close(v.open)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		for i := 0; ; i++ {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", targets[i%len(targets)])
			if err != nil {
				client.Close()
				continue
			}
			context.AfterFunc(ctx, func() {
				client.Close()
				server.Close()
			})
			running.Go(func() {
				io.Copy(server, client)
				server.Close()
			})
			running.Go(func() {
				v.copy(ctx, client, server)
				client.Close()
			})
		}
	})
	t.Cleanup(func() {
		cancel()
		l.Close()
		running.Wait()
	})
	return v
}

func (v *valve) copy(ctx context.Context, to, from net.Conn) {
	buf := make([]byte, 64<<10)
	for {
		v.mu.Lock()
		open := v.open
		v.mu.Unlock()
		select {
		case <-open:
		case <-ctx.Done():
			return
		}
		n, err := from.Read(buf)
		if _, failed := to.Write(buf[:n]); failed != nil || err != nil {
			return
		}
	}
}

func (v *valve) shut(yes bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if yes {
		v.open = make(chan struct{})
	} else {
		close(v.open)
	}
}

// Two links that lead to two brokers are found out.
func TestTwoBrokers(t *testing.T) {
	v := newValve(t, servertest.Mosquitto(t).Addr, servertest.Mosquitto(t).Addr)
	_, err := mqttbus.New("mqtt://"+v.addr, &mqttbus.Options{ProbeTimeout: time.Second})
	if err == nil || !strings.Contains(err.Error(), "did not hand it over") {
		t.Errorf("got %v", err)
	}
}

// A confirmation that is lost leaves the outcome unknown, and nothing is
// published again.
func TestConfirmationLost(t *testing.T) {
	for _, qos := range []byte{0, 1} {
		t.Run(fmt.Sprint("QoS ", qos), func(t *testing.T) {
			server := servertest.Mosquitto(t)
			proxy := netproxy.Start(t, server.Addr)
			options := &mqttbus.Options{QoS: qos, ProbeInterval: -1}
			from, to := open(t, proxy.Addr, options), open(t, server.Addr, options)
			if err := to.Subscribe(t.Context(), "a", "b"); err != nil {
				t.Fatal(err)
			}
			publish := func(data string) error {
				return from.Publish(t.Context(), herald.Packet{Topic: "a", Data: []byte(data)}, herald.Packet{Topic: "b", Data: []byte(data)})
			}
			if err := publish("before"); err != nil {
				t.Fatal(err)
			}
			pair := proxy.Find("herald/a")
			pair.Mute(true)
			result := make(chan error)
			go func() { result <- publish("unknown") }()
			expect(t, to, "a before", "b before", "a unknown", "b unknown")
			pair.Cut()
			if err := <-result; !errors.Is(err, herald.ErrUnknown) {
				t.Errorf("got %v, want ErrUnknown", err)
			}
			for publish("after") != nil {
			}
			expect(t, to, "a after", "b after") // no gap, nothing twice
		})
	}
}

// expect receives these packets, and nothing else before them.
func expect(t *testing.T, bus *mqttbus.Bus, packets ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, want := range packets {
		e, err := bus.Receive(ctx)
		if err != nil {
			t.Fatalf("%v, where %q was due", err, want)
		}
		if got := e.Packet.Topic + " " + string(e.Packet.Data); e.Kind != herald.EventPacket || got != want {
			t.Fatalf("got %q, %+v, where %q was due", got, e, want)
		}
	}
}
