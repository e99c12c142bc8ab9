package rabbitbus_test

import (
	"crypto/rand"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/rabbitmq/amqp091-go"

	"github.com/heraldgo/herald/bus/rabbitbus"
	"github.com/heraldgo/herald/internal/test/bustest"
	"github.com/heraldgo/herald/internal/test/netproxy"
	"github.com/heraldgo/herald/internal/test/servertest"
)

const patience = bustest.Patience

// A rig is a Bus that publishes a stream straight to the server, and one
// behind a proxy that receives it.
type rig struct {
	*testing.T
	*bustest.Stream
	server   *servertest.Server
	proxy    *netproxy.Proxy
	exchange string
	from, to *rabbitbus.Bus
}

// quick proves the links ten times a second, and notices soon what hangs.
func quick(exchange string) *rabbitbus.Options {
	return &rabbitbus.Options{
		Exchange: exchange, ProbeInterval: time.Second / 10, ProbeTimeout: 2 * time.Second,
		Config: amqp091.Config{Heartbeat: time.Second},
	}
}

func newRig(t *testing.T, server *servertest.Server) *rig { return newRigOn(t, server, rand.Text()) }

func newRigOn(t *testing.T, server *servertest.Server, exchange string) *rig {
	r := &rig{T: t, server: server, proxy: netproxy.Start(t, server.Addr), exchange: exchange}
	r.from = open(t, server.Addr, quick(r.exchange))
	r.to = open(t, r.proxy.Addr, quick(r.exchange))
	r.Stream = bustest.Start(t, r.from, r.to, bustest.Options{})
	r.AwaitPackets(100)
	return r
}

// operator returns a channel of someone who may do anything.
func operator(t testing.TB, server *servertest.Server) *amqp091.Channel {
	t.Helper()
	conn, err := amqp091.Dial(url(server.Addr))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	channel, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	return channel
}

// ofQueues runs an Erlang expression for each queue Q that is bound to the
// exchange, by the binding B.
func ofQueues(t testing.TB, server *servertest.Server, exchange, expression string) {
	t.Helper()
	got := server.RabbitMQCtl("eval", fmt.Sprintf(
		`X = rabbit_misc:r(<<"/">>, exchange, <<%q>>),
		[begin {ok, Q} = rabbit_amqqueue:lookup(element(4, B)), %s end || B <- rabbit_binding:list_for_source(X)].`, exchange, expression))
	if strings.Contains(got, "rror") || strings.TrimSpace(got) == "[]" {
		t.Fatalf("eval %s: %s", expression, got)
	}
}
