package natsbus_test

import (
	"crypto/rand"
	"testing"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/bus/natsbus"
	"github.com/heraldgo/herald/heraldtest"
	"github.com/heraldgo/herald/internal/test/netproxy"
	"github.com/heraldgo/herald/internal/test/servertest"
)

func TestBus(t *testing.T) {
	server := servertest.NATS(t)
	heraldtest.TestBus(t, func(t testing.TB) heraldtest.BusNetwork {
		proxy := netproxy.Start(t, server.Addr)
		prefix := "test." + rand.Text()
		open := func(prefix string) func() herald.Bus {
			return func() herald.Bus {
				bus, err := natsbus.New("nats://"+proxy.Addr, &natsbus.Options{Prefix: prefix})
				if err != nil {
					t.Fatal(err)
				}
				return bus
			}
		}
		return heraldtest.BusNetwork{
			Open:      open(prefix),
			Interrupt: proxy.Cut,
			Other:     open(prefix + "x"),
			// The server has a goroutine for each publisher's connection,
			// which goes from one subscriber to the next.
			PublisherOrder: true,
		}
	})
}
