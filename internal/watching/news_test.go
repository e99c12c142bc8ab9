package watching

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// One who is there is added again under another lease, and one whom the list left out,
// because its lease had run out, is swept: neither is news.
func TestNoNews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.change("a", false)
		watcher := w.watch(t)
		wantNext(t, watcher, "+a")
		w.Hear("g", w.change("a", false))
		w.Hear("g", w.change("b", false))
		wantNext(t, watcher, "+b")
		w.Hear("g", w.change("left out", true))
		w.Hear("g", w.change("a", true))
		wantNext(t, watcher, "-a")
	})
}

// A change that was undone, and each list, end the waiting with nobody to tell of: a
// caller that acts on changes itself may have seen half of them.
func TestNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.change("a", false)
		watcher := w.watch(t)
		wantNext(t, watcher, "+a")
		for _, what := range []struct {
			name string
			do   func()
		}{
			{"left and came back", func() {
				w.Hear("g", w.change("a", true))
				w.Hear("g", w.change("a", false))
			}},
			{"both changes were lost", func() {
				w.change("a", true)
				w.change("a", false)
				w.Doubt()
			}},
		} {
			synctest.Wait()
			select {
			case <-watcher.wake: // the last list has set it again
			default:
			}
			what.do()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			came, left, err := watcher.Next(ctx)
			cancel()
			if err != nil || len(came)+len(left) > 0 {
				t.Errorf("%s: told %v, %v, %v", what.name, came, left, err)
			}
		}
	})
}

// A packet that cannot be read may have been a change.
func TestMalformed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		watcher := w.watch(t)
		wantNext(t, watcher, "")
		w.change("a", false)
		began := time.Now()
		if _, err := w.Hear("g", []byte{version, 1}); err == nil {
			t.Fatal("half a change is no error")
		}
		wantNext(t, watcher, "+a")
		if took := time.Since(began); took > retryAfter {
			t.Fatalf("the list was asked for %v later", took)
		}
	})
}

// Doubts while lists are slow to come: each list that was under way when one came up is
// followed by another, and there is never more than one under way, nor one a second.
func TestDoubtsDuringSlowLists(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.slow = 5 * time.Second
		watcher := w.watch(t)
		wantNext(t, watcher, "")
		for i, when := range []time.Duration{0, retryAfter, w.slow - time.Millisecond} {
			before := w.listed()
			w.Doubt()
			time.Sleep(2 * retryAfter) // a list is under way
			if w.listed() != before+1 {
				t.Fatalf("%d: %d lists after a doubt, want 1", i, w.listed()-before)
			}
			time.Sleep(max(0, when-2*retryAfter))
			id := fmt.Sprint(i)
			w.change(id, false) // lost, and newer than the list
			for range 10 {
				w.Doubt()
			}
			wantNext(t, watcher, "+"+id)
			time.Sleep(time.Minute)
			if w.listed() != before+2 {
				t.Fatalf("%d: %d lists for doubts before and during one, want 2", i, w.listed()-before)
			}
		}
	})
}
