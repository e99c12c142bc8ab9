package hubtest

import (
	"testing"
	"time"

	"github.com/heraldgo/herald"
)

// hubs is how many hubs there are in each test.
const hubs = 3

// deliveries is the least number of messages that Delivery sends. A device gets
// about 130 of them, so that a queue of the default 4,096 messages is long enough
// at any pace.
const deliveries = 5_000

// calm is a configuration for tests without faults. A slow machine is not a fault.
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
