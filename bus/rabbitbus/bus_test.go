package rabbitbus_test

import (
	"crypto/rand"
	"testing"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/bus/rabbitbus"
	"github.com/heraldgo/herald/heraldtest"
	"github.com/heraldgo/herald/internal/test/netproxy"
)

func url(addr string) string { return "amqp://guest:guest@" + addr + "/" }

// open returns a Bus that is closed when the test ends.
func open(t testing.TB, addr string, options *rabbitbus.Options) *rabbitbus.Bus {
	t.Helper()
	bus, err := rabbitbus.New(url(addr), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { bus.Close() })
	return bus
}

func TestBus(t *testing.T) {
	heraldtest.TestBus(t, func(t testing.TB) heraldtest.BusNetwork {
		server := broker(t)
		proxy := netproxy.Start(t, server.Addr)
		exchange := rand.Text()
		return heraldtest.BusNetwork{
			Open:      func() herald.Bus { return open(t, proxy.Addr, &rabbitbus.Options{Exchange: exchange}) },
			Other:     func() herald.Bus { return open(t, proxy.Addr, &rabbitbus.Options{Exchange: exchange + "2"}) },
			Interrupt: proxy.Cut,
		}
	})
}
