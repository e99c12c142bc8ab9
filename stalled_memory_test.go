package herald

import (
	"fmt"
	"testing"
	"time"
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

// So it is with TLS, be what waits ever so small.
func TestStalledTakesNoBufferOfTLS(t *testing.T) {
	const clients = 20
	r := newRigOver(t, true, Config{WriteTimeout: patience})
	for i := range clients {
		r.connectSmall(true, fmt.Sprint("user=", i))
	}
	r.await("all clients", func() bool { return r.Stats().Conns == clients })
	before := heapInUse()
	for c := range r.Conns() {
		narrow(c)
		for stalled := false; !stalled; {
			for i := range 4 { // two or more share a write
				c.Send(numbered(i, 1<<10))
			}
			for tries := 0; !stalled; tries++ {
				if q := queueOf(c); q.size() == 0 {
					break
				}
				time.Sleep(time.Millisecond)
				stalled = tries > 100
			}
		}
	}
	per := (heapInUse() - before) / clients
	queued := r.Stats().QueuedBytes / clients
	t.Logf("%d bytes a client, %d of them in its queue", per, queued)
	if per > queued+flushSize/2 {
		t.Errorf("%d bytes a client, %d of them in its queue", per, queued)
	}
}
