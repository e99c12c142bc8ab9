package resumetest_test

import (
	"context"
	"strings"
	"testing"

	"github.com/heraldgo/herald"
)

// Deliver keeps what Send would, and a client that can come back gives receipts.
func TestReceipts(t *testing.T) { eachBus(t, testReceipts) }

func testReceipts(t *testing.T, config func() herald.Config) {
	one, two := newNode(t, config()), newNode(t, config())
	d := newDevice(t, one, "user=a&group=g&group=h", "")
	d.connected()
	for _, target := range []herald.Target{herald.User("a"), herald.Group("g", "h")} {
		if got := two.deliver(t, target, "live"); got.ReceivedTotal != 1 || got.MissedTotal != 0 {
			t.Fatalf("%+v", got)
		}
		d.want("live")
	}
	d.Cut()
	two.deliver(t, herald.User("a"), "missed") // whether it is listed still or not
	two.deliver(t, herald.Group("g", "h"), "missed too")
	d.Heal()
	id, _, _ := strings.Cut(d.connected().Conn, "~")
	d.want("missed", "missed too")
	if got := two.deliver(t, herald.Connection(id), "direct"); got.ReceivedTotal != 1 || got.MissedTotal != 0 {
		t.Fatalf("%+v", got)
	}
	d.want("direct")
}

func (n *node) deliver(t *testing.T, target herald.Target, text string) herald.Delivery {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	d, err := n.Deliver(ctx, target, herald.Text(text))
	if err != nil {
		t.Fatal(err)
	}
	return d
}
