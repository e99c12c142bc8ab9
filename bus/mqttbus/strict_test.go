package mqttbus_test

import (
	"errors"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/eclipse/paho.golang/packets"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/bus/mqttbus"
)

// A strictBroker ends a connection for every SUBSCRIBE that names "forbidden",
// and sends whatever is published to everyone.
type strictBroker struct {
	mu    sync.Mutex
	conns []net.Conn
}

func startStrictBroker(t *testing.T) (addr string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &strictBroker{}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			b.mu.Lock()
			b.conns = append(b.conns, c)
			b.mu.Unlock()
			running.Go(func() { b.serve(c) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		b.mu.Lock()
		for _, c := range b.conns {
			c.Close()
		}
		b.mu.Unlock()
		running.Wait()
	})
	return l.Addr().String()
}

func (b *strictBroker) serve(c net.Conn) {
	defer c.Close()
	none := &packets.Properties{}
	for {
		p, err := packets.ReadPacket(c)
		if err != nil {
			return
		}
		switch p := p.Content.(type) {
		case *packets.Connect:
			(&packets.Connack{Properties: none}).WriteTo(c)
		case *packets.Pingreq:
			(&packets.Pingresp{}).WriteTo(c)
		case *packets.Subscribe:
			for _, s := range p.Subscriptions {
				if strings.HasSuffix(s.Topic, "forbidden") {
					(&packets.Disconnect{ReasonCode: packets.DisconnectPacketTooLarge, Properties: none}).WriteTo(c)
					return
				}
			}
			(&packets.Suback{PacketID: p.PacketID, Reasons: make([]byte, len(p.Subscriptions)), Properties: none}).WriteTo(c)
		case *packets.Publish:
			if p.QoS == 1 {
				(&packets.Puback{PacketID: p.PacketID, Properties: none}).WriteTo(c)
			}
			p.QoS = 0
			b.mu.Lock()
			for _, c := range b.conns {
				p.WriteTo(c)
			}
			b.mu.Unlock()
		}
	}
}

// What a broker ends the connection for is an error, and not tried again and
// again.
func TestDisconnectedForSubscribe(t *testing.T) {
	bus := open(t, startStrictBroker(t), &mqttbus.Options{ProbeInterval: -1})
	if err := bus.Subscribe(t.Context(), "allowed"); err != nil {
		t.Fatal(err)
	}
	err := bus.Subscribe(t.Context(), "forbidden")
	if err == nil || !strings.Contains(err.Error(), "0x95") {
		t.Errorf("got %v", err)
	}
	for _, want := range []herald.EventKind{herald.EventDown, herald.EventRestored} {
		if e, err := bus.Receive(t.Context()); err != nil || e.Kind != want {
			t.Fatalf("got %+v, %v", e, err)
		}
	}
	if err := errors.Join(bus.Subscribe(t.Context(), "other"),
		bus.Publish(t.Context(), herald.Packet{Topic: "other"}, herald.Packet{Topic: "allowed"}, herald.Packet{Topic: "forbidden"})); err != nil {
		t.Fatal(err)
	}
	expect(t, bus, "other ", "allowed ")
}
