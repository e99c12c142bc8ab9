package driver_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heraldgo/herald/internal/history/device"
	"github.com/heraldgo/herald/internal/history/driver"
	"github.com/heraldgo/herald/internal/test/memlog"
)

// A device that reads fast enough goes live even during a flood in which more than
// a page comes in each round trip to the log.
func TestCatchesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const trip, flood = 10 * time.Millisecond, 8 // flood is messages in a trip; a page is 4
		servers := newServers(limits)
		h, other := newHub(t, servers, func(c *driver.Config) { c.Bytes = 1 << 20 }), newHub(t, servers, nil)
		synctest.Wait()
		away := h.absent(t, 1, 100, "a0")[0]
		h.links[0].Break(memlog.Faults{Delay: trip})
		ctx, stop := context.WithCancel(t.Context())
		sent := 100
		flooded := make(chan struct{})
		go func() {
			defer close(flooded)
			for ; ctx.Err() == nil; time.Sleep(trip) {
				for range flood {
					other.append(t, "a0", sent)
					sent++
				}
			}
		}()
		c, err := h.begin(t.Context(), &steps, away, "again", "a0")
		if err != nil {
			t.Fatal(err)
		}
		next, live := 0, false
		receive := func() {
			for f, ok := c.next(); ok; f, ok = c.next() {
				if away.Receive(f.Frame); f.Kind == device.Message {
					expect(t, "the next message", number(f.Body), next)
					next++
				}
				live = live || f.Partition == 0 && f.Verdict == device.Complete
			}
		}
		for begin := time.Now(); !live && time.Since(begin) < time.Minute; <-c.wake {
			receive()
		}
		if !live {
			t.Errorf("it is not live after a minute: it has %d of %d", next, sent)
		}
		stop()
		<-flooded
		synctest.Wait()
		receive()
		expect(t, "messages", next, sent)
	})
}

// The entries behind a page are read with it if the budget has room.
func TestReadAhead(t *testing.T) {
	for _, c := range []struct{ bytes, missed, reads, ahead int }{
		{1 << 20, 4, 1, 0},
		{1 << 20, 200, 1, 1},
		{1 << 20, 1100, 3, 3},
		{1, 200, 50, 0},
	} {
		one(t, func(d *driver.Config) { d.Bytes, d.Device.Survey = c.bytes, 2000 }, func(t *testing.T, h *hub, s *spy) {
			away := h.absent(t, 1, c.missed, "a0")[0]
			_, frames := h.come(t, away, "again", "a0")
			expect(t, fmt.Sprint("of ", c.missed, " it has"), strings.Count(kinds(frames), "m"), c.missed)
			expect(t, fmt.Sprint("reads of ", c.missed), s.count("read"), c.reads)
			expect(t, fmt.Sprint("reads ahead of ", c.missed), s.count("read ahead"), c.ahead)
		})
	}
}

// If an entry that is read ahead is gone, that is told before the entries behind
// it.
func TestReadAheadMissing(t *testing.T) {
	one(t, func(d *driver.Config) { d.Bytes = 1 << 20 }, func(t *testing.T, h *hub, s *spy) {
		away := h.absent(t, 1, 12, "a0")[0]
		from, _ := away.Resume()
		s.lost.Store(int64(from[0].Offset) + 7)
		_, frames := h.come(t, away, "again", "a0")
		expect(t, "it has", kinds(frames), "wp"+"mmmm"+"gmmm"+"mmmmp")
		expect(t, "reads", s.count("read"), 1)
	})
}

// Entries that were read ahead for slow clients never keep another client from a
// page, and not for long from reading ahead. Clients that have ended hold nothing.
func TestBudgetOfReadAhead(t *testing.T) {
	const missed = 200
	one(t, func(d *driver.Config) { d.Bytes = 4 * missed * 192 }, func(t *testing.T, h *hub, s *spy) {
		away := h.absent(t, 20, missed, "a0")
		reads := func(what string, i, most int) {
			t.Helper()
			before := s.count("read")
			_, frames := h.come(t, away[i], fmt.Sprint("again", i), "a0")
			expect(t, what+" it has", strings.Count(kinds(frames), "m"), missed)
			if n := s.count("read") - before; n > most {
				t.Errorf("%s: %d reads", what, n)
			}
		}
		begin := func(i int) *conn {
			t.Helper()
			c, err := h.begin(t.Context(), &steps, away[i], fmt.Sprint("again", i), "a0")
			if err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			return c
		}
		var slow []*conn
		for i := range 9 {
			slow = append(slow, begin(i))
		}
		reads("while others are slow", 9, missed/4)
		time.Sleep(time.Second)
		reads("after a while", 10, 1)
		for i := range 3 {
			slow = append(slow, begin(11+i))
		}
		for _, c := range slow {
			c.end()
		}
		synctest.Wait()
		for i := range 5 {
			reads("after all have ended", 14+i, 1)
		}
	})
}
