package rabbitbus_test

import (
	"crypto/rand"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/bus/rabbitbus"
	"github.com/heraldgo/herald/internal/test/bustest"
)

// An exchange that was deleted is found out by asking for it, and not only by
// a probe that does not come back: RabbitMQ confirms what it throws away.
func TestExchangeGone(t *testing.T) {
	server := broker(t)
	options := &rabbitbus.Options{Exchange: rand.Text(), ProbeTimeout: 5 * patience}
	from, to, other := open(t, server.Addr, options), open(t, server.Addr, options), open(t, server.Addr, options)
	r := bustest.Start(t, from, to, bustest.Options{})
	others := bustest.Record(t, other)
	r.AwaitPackets(100)
	if err := operator(t, server).ExchangeDelete(options.Exchange, false, false); err != nil {
		t.Fatal(err)
	}
	r.AwaitGap()
	others.AwaitGap() // before the first to notice makes the exchange anew
	if err := from.Publish(t.Context(), herald.Packet{Topic: "none"}); err != nil && !errors.Is(err, herald.ErrBusDown) {
		t.Errorf("Publish without an exchange: %v", err)
	}
	if got := r.Check(); !strings.Contains(got.Gaps[0].Err.Error(), "the exchange has been deleted") {
		t.Errorf("the reason is %v", got.Gaps[0].Err)
	}
	others.Await("the end of the gap", func() bool { return !others.Gaps()[0].Until.IsZero() })
}

// A node whose queue gets nothing any more is red long before its link is
// given up.
func TestLate(t *testing.T) {
	server := broker(t)
	options := &rabbitbus.Options{Exchange: rand.Text(), ProbeInterval: time.Second / 10, ProbeTimeout: 65 * time.Second}
	bus := open(t, server.Addr, options)
	r := bustest.Record(t, bus)
	ofQueues(t, server, options.Exchange, `rabbit_binding:remove(B, <<"operator">>)`)
	r.Await("Health red", func() bool { return bus.Health() != nil })
	if err := bus.Health(); !strings.Contains(err.Error(), "has not handed it over so far") || len(r.Gaps()) > 0 {
		t.Errorf("Health %v, gaps %v", err, r.Gaps())
	}
}

// Why RabbitMQ lets nobody in is in the error, in its own words.
func TestFullInWords(t *testing.T) {
	server := broker(t)
	server.RabbitMQCtl("add_vhost", "full")
	server.RabbitMQCtl("set_permissions", "-p", "full", "guest", ".*", ".*", ".*")
	server.RabbitMQCtl("set_vhost_limits", "-p", "full", `{"max-connections": 1}`)
	for vhost, want := range map[string]string{"full": "connection limit (1) is reached", "none": "vhost none not found"} {
		_, err := rabbitbus.New(strings.TrimSuffix(url(server.Addr), "/")+"/"+vhost, &rabbitbus.Options{Exchange: rand.Text()})
		if err == nil || !strings.Contains(err.Error(), want) || errors.Is(err, herald.ErrBusDown) != (vhost == "full") {
			t.Errorf("New on vhost %s: %v, want %q", vhost, err, want)
		}
	}
}
