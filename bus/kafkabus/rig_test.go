package kafkabus_test

import (
	"fmt"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/bus/kafkabus"
	"github.com/heraldgo/herald/internal/test/bustest"
)

const patience = bustest.Patience

// A rig is a Bus that publishes a stream straight to the cluster, and one
// behind proxies that receives it.
type rig struct {
	*testing.T
	*broker
	*bustest.Stream
	from, to *kafkabus.Bus
}

func newRig(t *testing.T, opts ...kfake.Opt) *rig {
	return startRig(t, startFake(t, opts...), quick)
}

func startRig(t *testing.T, b *broker, options kafkabus.Options) *rig {
	r := &rig{T: t, broker: b}
	var err error
	if r.from, err = kafkabus.New(b.seeds(), &options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.from.Close() })
	r.to = b.open(options)
	t.Cleanup(func() { r.to.Close() })
	topics := make([]string, 4*partitions) // enough for every partition
	for i := range topics {
		topics[i] = fmt.Sprint("topic ", i)
	}
	r.Stream = bustest.Start(t, r.from, r.to, bustest.Options{Topics: topics})
	r.AwaitPackets(100)
	return r
}

// check checks the stream, and that its packets arrived in order. It returns
// how many were lost.
func (r *rig) check() (lost int) {
	r.T.Helper()
	lost = r.Check().Lost
	newest := make(map[string]int)
	for _, e := range r.Events() {
		if e.Kind != herald.EventPacket {
			continue
		}
		i := bustest.Number(e.Packet)
		if i < newest[e.Packet.Topic] {
			r.T.Errorf("packet %d of %q came after %d", i, e.Packet.Topic, newest[e.Packet.Topic])
		}
		newest[e.Packet.Topic] = i
	}
	return lost
}
