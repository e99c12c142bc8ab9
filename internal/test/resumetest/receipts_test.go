package resumetest_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/heraldgo/herald"
)

// Deliver keeps what Send would. A client that can come back gives a receipt when its
// program has processed the message, and not before.
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
		case <-time.After(100 * time.Millisecond): // it proves little, but can't fail by chance
		}
		d.receives(t, call)
	}
	d.Cut()
	missed, missedToo := two.begin(t, herald.User("a"), "missed"), two.begin(t, herald.Group("g", "h"), "missed too")
	if m, n := <-missed, <-missedToo; m.ReceivedTotal+n.ReceivedTotal > 0 { // whether it is listed still or not
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

// begin begins a Deliver.
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

// receives has the device receive on, until the call has its only receipt.
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
