package herald

import (
	"testing"
	"testing/synctest"
	"time"
)

// A writer waits a moment before the first of many writes, so that what comes
// meanwhile shares them, and neither before few nor again while it is busy.
func TestWriterGathers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ws := newWriters(1)
		defer ws.close()
		w := ws.all[0]
		// hand gives the writer so many Conns that have nothing to write, and
		// returns the last of them.
		hand := func(n int) (last *Conn) {
			w.mu.Lock()
			for range n {
				last = &Conn{}
				last.queue.owner = ownerWriter
				w.list = append(w.list, last)
			}
			w.mu.Unlock()
			w.wake.Set()
			synctest.Wait()
			return last
		}
		await := func(c *Conn) (waited time.Duration) {
			for ; ; waited += gather / 10 {
				c.mu.Lock()
				done := c.queue.owner == ownerNone
				c.mu.Unlock()
				if done {
					return waited
				}
				time.Sleep(gather / 10)
				synctest.Wait()
			}
		}
		for range 2 {
			if d := await(hand(many - 1)); d != 0 {
				t.Errorf("few Conns waited for %v", d)
			}
			first := hand(many)
			second := hand(many)
			if d := await(first); d != gather {
				t.Errorf("many Conns waited for %v", d)
			}
			if d := await(second); d != 0 {
				t.Errorf("many more waited for %v again", d)
			}
		}
	})
}
