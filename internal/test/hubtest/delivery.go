package hubtest

import (
	"testing"
	"time"

	"github.com/heraldgo/herald"
)

// hubs is how many hubs there are in each test.
const hubs = 3

// deliveries is how many messages Delivery sends at least. A device gets some
// 130 of them, so a queue of the default 4,096 holds them whatever the pace.
const deliveries = 5_000

// calm is a configuration for tests without a fault: a slow machine is none.
var calm = herald.Config{ProbeTimeout: time.Minute}

func testDelivery(t *testing.T, broker Broker) {
	c := newCluster(t, broker, hubs, calm, nil)
	c.populate()
	c.send(deliveries/(hubs*senders)+1, 0).wait()
	c.fence()
	total := c.settle()
	t.Log(total)
	if total.Sent < deliveries || total.Failed > 0 || total.Lost > 0 {
		t.Errorf("without a fault: %v", total)
	}
	c.expectNoGaps(make([]int, hubs))
}
