package herald

import (
	"testing"
	"testing/synctest"
	"time"
)

// A writer waits a moment before the first of many writes, so that what comes
// meanwhile shares them, and not before few.
func TestWriterGathers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ws := newWriters(1)
		defer ws.close()
		w := ws.all[0]
		// work hands the writer so many Conns that have nothing to write, and
		// returns how long it takes until it is done.
		work := func(n int) time.Duration {
			start := time.Now()
			last := &Conn{}
			for i := range n {
				c := &Conn{}
				if i == n-1 {
					c = last
				}
				c.queue.owner = ownerWriter
				w.mu.Lock()
				w.list = append(w.list, c)
				w.mu.Unlock()
			}
			w.poke()
			for {
				synctest.Wait()
				last.mu.Lock()
				done := last.queue.owner == ownerNone
				last.mu.Unlock()
				if done {
					return time.Since(start)
				}
				time.Sleep(gather / 10)
			}
		}
		for range 2 {
			if d := work(many - 1); d != 0 {
				t.Errorf("few Conns waited for %v", d)
			}
			if d := work(many); d != gather {
				t.Errorf("many Conns waited for %v", d)
			}
		}
	})
}
