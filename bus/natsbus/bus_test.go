package natsbus_test

import (
	"bufio"
	"crypto/rand"
	"net"
	"strings"
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

// The suites against the newest NATS. All other tests run against that of the
// machine.
func TestNewest(t *testing.T) {
	servertest.Prefer(t, "nats-2.15")
	conn, err := net.Dial("tcp", servertest.NATS(t).Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	info, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil || !strings.Contains(info, `"version":"2.15.`) {
		t.Fatal(info, err)
	}
	t.Log(info)
	t.Run("Bus", TestBus)
	t.Run("Hub", TestHub)
}
