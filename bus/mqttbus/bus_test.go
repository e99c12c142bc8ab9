package mqttbus_test

import (
	"crypto/rand"
	"fmt"
	"testing"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/bus/mqttbus"
	"github.com/heraldgo/herald/heraldtest"
	"github.com/heraldgo/herald/internal/test/netproxy"
	"github.com/heraldgo/herald/internal/test/servertest"
)

// quick proves the links ten times a second.
func quick(o mqttbus.Options) *mqttbus.Options {
	o.ProbeInterval = time.Second / 10
	return &o
}

func TestBus(t *testing.T) {
	server := servertest.Mosquitto(t, "set_tcp_nodelay true") // the proxy delays acknowledgements
	for _, qos := range []byte{0, 1} {
		t.Run(fmt.Sprint("QoS ", qos), func(t *testing.T) {
			heraldtest.TestBus(t, func(t testing.TB) heraldtest.BusNetwork {
				proxy := netproxy.Start(t, server.Addr)
				prefix := "test/" + rand.Text()
				return heraldtest.BusNetwork{
					Open:      func() herald.Bus { return open(t, proxy.Addr, quick(mqttbus.Options{Prefix: prefix, QoS: qos})) },
					Interrupt: proxy.Cut,
					Other:     func() herald.Bus { return open(t, proxy.Addr, quick(mqttbus.Options{Prefix: prefix + "/a", QoS: qos})) },
				}
			})
		})
	}
}

// open opens a Bus that is closed when the test ends.
func open(t testing.TB, addr string, options *mqttbus.Options) *mqttbus.Bus {
	t.Helper()
	bus, err := mqttbus.New("mqtt://"+addr, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { bus.Close() })
	return bus
}
