package resumetest_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/test/netproxy"
	"github.com/heraldgo/herald/internal/test/redistest"
)

// Deliver keeps the messages that Send would keep. A client that can come back
// gives a receipt only when its program has processed the message.
func TestReceipts(t *testing.T) { eachBus(t, testReceipts) }

func testReceipts(t *testing.T, config func() herald.Config) {
	one, two := newNode(t, config()), newNode(t, config())
	d := newDevice(t, one, "user=a&group=g&group=h", "")
	d.connected()
	for _, target := range []herald.Target{herald.User("a"), herald.Group("g", "h")} {
		call := two.begin(t, target, "live")
		d.want("live")
		select {
		case got := <-call:
			t.Fatalf("the message is not processed: %+v", got)
		case <-time.After(100 * time.Millisecond): // that proves little, but cannot fail by chance
		}
		d.receives(t, call)
	}
	d.Cut()
	missed, missedToo := two.begin(t, herald.User("a"), "missed"), two.begin(t, herald.Group("g", "h"), "missed too")
	if m, n := <-missed, <-missedToo; m.ReceivedTotal+n.ReceivedTotal > 0 { // it may still be listed or not
		t.Fatalf("%+v, %+v", m, n)
	}
	d.Heal()
	id, _, _ := strings.Cut(d.connected().Conn, "~")
	d.wantEach([]string{"missed"}, []string{"missed too"})
	if got := <-two.begin(t, herald.Connection(id), "direct"); got.ReceivedTotal != 1 || got.MissedTotal != 0 {
		t.Fatalf("%+v", got)
	}
	d.want("direct")
}

// A node that was cut off when a message was sent gets it from the log. Its devices
// give receipts then.
func TestReceiptsAfterGap(t *testing.T) {
	server := redistest.Start(t)
	link := netproxy.Start(t, server.Addr)
	rdb := redis.NewClient(&redis.Options{Addr: link.Addr})
	t.Cleanup(func() { rdb.Close() })
	one, two := newNode(t, herald.Config{Redis: server.Client(), Lease: time.Minute}), newNode(t, herald.Config{Redis: rdb, Lease: time.Minute})
	here, there := newDevice(t, one, "user=a", ""), newDevice(t, two, "user=a", "")
	here.connected()
	there.connected()
	link.Stall(true) // new connections must wait
	link.Cut()
	call := one.begin(t, herald.User("a"), "in the gap")
	here.wantAfterGaps("in the gap")
	ctx, cancel := context.WithCancel(t.Context())
	var receiving sync.WaitGroup
	receiving.Go(func() { here.Receive(ctx) })
	link.Stall(false)
	there.wantAfterGaps("in the gap")
	receiving.Go(func() { there.Receive(ctx) })
	if got := <-call; got.ReceivedTotal != 2 || got.MissedTotal != 0 {
		t.Errorf("%+v", got)
	}
	cancel()
	receiving.Wait()
}

// begin starts a Deliver.
func (n *node) begin(t *testing.T, target herald.Target, text string) <-chan herald.Delivery {
	t.Helper()
	done := make(chan herald.Delivery, 1)
	go func() {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		d, err := n.Deliver(ctx, target, herald.Text(text))
		if err != nil {
			t.Error(err)
		}
		done <- d
	}()
	return done
}

// receives makes the device go on receiving until the call has its only receipt.
func (d *device) receives(t *testing.T, call <-chan herald.Delivery) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	received := make(chan struct{})
	go func() {
		defer close(received)
		if e, err := d.Receive(ctx); err == nil {
			t.Errorf("got %T %+v", e, e)
		}
	}()
	if got := <-call; got.ReceivedTotal != 1 || got.MissedTotal != 0 {
		t.Errorf("%+v", got)
	}
	cancel()
	<-received
}
