package herald

import (
	"fmt"
	"testing"
)

// What a client that never reads keeps in memory, beside its queue, is what of
// one write its socket has not taken.
func TestStalledTakesNoBuffer(t *testing.T) {
	const clients = 50
	r := newRig(t, Config{WriteTimeout: patience})
	for i := range clients {
		r.connectSmall(false, fmt.Sprint("user=", i))
	}
	r.await("all clients", func() bool { return r.Stats().Conns == clients })
	before := heapInUse()
	for c := range r.Conns() {
		narrow(c)
		for i := 0; !queueOf(c).blocked; i++ {
			c.Send(numbered(i, 30<<10)) // two share a write, and are copied
			c.Send(numbered(i, 30<<10))
			r.await("a write", func() bool { q := queueOf(c); return q.blocked || q.size() == 0 })
		}
	}
	per := (heapInUse() - before) / clients
	queued := r.Stats().QueuedBytes / clients
	t.Logf("%d bytes a client, %d of them in its queue", per, queued)
	if per > queued+flushSize/2 {
		t.Errorf("%d bytes a client, %d of them in its queue", per, queued)
	}
}
