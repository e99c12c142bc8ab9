package watching

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heraldgo/herald/internal/errs"
)

// A world is a topic that changes, and a Room that watches it.
type world struct {
	*Room

	mu     sync.Mutex // guards the rest
	number int64
	there  map[string]Session
	lists  int
	fail   error
	slow   time.Duration // how long a list is under way
}

func newWorld(t *testing.T) *world {
	w := &world{there: make(map[string]Session), number: 100}
	w.Room = NewRoom(Config{
		Follow: func(string) {}, Unfollow: func(string) {},
		List: func(context.Context, string) (int64, []Session, error) {
			w.mu.Lock()
			w.lists++
			number, there, fail, slow := w.number, slices.Collect(maps.Values(w.there)), w.fail, w.slow
			w.mu.Unlock()
			time.Sleep(slow)
			return number, there, fail
		},
		Every: time.Hour,
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return w
}

// change changes the topic, and returns the packet that says so.
func (w *world) change(id string, left bool) []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.number++
	c := Change{Topic: "g", Number: w.number, Session: Session{ID: id, User: "u", Node: "n", Since: time.UnixMicro(7), Body: "b"}, Left: left}
	if left {
		delete(w.there, id)
	} else {
		w.there[id] = c.Session
	}
	return appendChange([]byte{version}, c)
}

// listed returns how often the topic was listed.
func (w *world) listed() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lists
}

// breaks makes lists fail, or work again.
func (w *world) breaks(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fail = err
}

func (w *world) watch(t *testing.T) *Watcher {
	var watcher *Watcher
	var err error
	var calling sync.WaitGroup
	calling.Go(func() { // a panic ends the process; in the test itself, cleanups would wait for the lock
		watcher, err = w.Watch("g")
	})
	calling.Wait()
	if err != nil {
		t.Fatal(err)
	}
	return watcher
}

// wantNext checks the next news: "+a -b". If it wants some, it passes over calls that
// return nothing.
func wantNext(t *testing.T, w *Watcher, want string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
	defer cancel()
	for {
		came, left, err := w.Next(ctx)
		if err != nil {
			t.Fatalf("want %q: %v", want, err)
		}
		var got []string
		for _, s := range came {
			got = append(got, "+"+s.ID)
		}
		for _, s := range left {
			got = append(got, "-"+s.ID)
		}
		slices.Sort(got)
		switch s := strings.Join(got, " "); {
		case s == want:
			return
		case s != "":
			t.Fatalf("told %q, want %q", s, want)
		}
	}
}

// wantError checks that the next news are an error.
func wantError(t *testing.T, w *Watcher, want error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
	defer cancel()
	if came, left, err := w.Next(ctx); err != want {
		t.Fatalf("told %v, %v, %v, want %v", came, left, err, want)
	}
}

func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.change("a", false)
		first := w.watch(t)
		wantNext(t, first, "+a")
		w.Hear("g", w.change("b", false))
		wantNext(t, first, "+b")
		second := w.watch(t)
		wantNext(t, second, "+a +b")
		old := w.change("a", true)
		w.Hear("g", old)
		w.Hear("g", old)
		for _, watcher := range []*Watcher{first, second} {
			wantNext(t, watcher, "-a")
		}
		if w.listed() != 1 {
			t.Fatalf("%d lists, want 1", w.listed())
		}

		// Nobody who has come and gone is told of.
		w.Hear("g", w.change("c", false))
		w.Hear("g", w.change("c", true))
		w.Hear("g", w.change("b", true))
		w.Hear("g", w.change("b", false))
		w.Hear("g", w.change("d", false))
		wantNext(t, first, "+d")

		// Two changes in another order, and a hole.
		e, f := w.change("e", false), w.change("f", false)
		w.Hear("g", f)
		synctest.Wait()
		w.Hear("g", e)
		wantNext(t, first, "+e +f")
		if time.Sleep(2 * holePatience); w.listed() != 1 {
			t.Fatalf("%d lists although there is no hole", w.listed())
		}
		w.change("g", false) // lost
		w.Hear("g", w.change("h", false))
		wantNext(t, first, "+g +h")
		if w.listed() != 2 {
			t.Fatalf("%d lists after a hole", w.listed())
		}

		// A loss that nobody notices, and one that is told of.
		w.change("a", false)
		began := time.Now()
		wantNext(t, first, "+a")
		if took := time.Since(began); took < 50*time.Minute || took > 70*time.Minute {
			t.Fatalf("the list was asked for after %v", took)
		}
		w.change("a", true)
		began = time.Now()
		w.Doubt()
		wantNext(t, first, "-a")
		if took := time.Since(began); took > retryAfter {
			t.Fatalf("the list was asked for %v after a doubt", took)
		}
	})
}

// A hole lasts from when it began, whatever is heard behind it.
func TestWatchHole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		watcher := w.watch(t)
		wantNext(t, watcher, "")
		w.change("a", false) // lost
		began := time.Now()
		for _, id := range []string{"b", "c", "d"} {
			w.Hear("g", w.change(id, false))
			time.Sleep(holePatience / 4)
		}
		wantNext(t, watcher, "+a +b +c +d")
		if took := time.Since(began); took != holePatience {
			t.Errorf("the list was asked for after %v", took)
		}
	})
}

// While a hole cannot be filled, because lists fail, there is one list a second.
func TestWatchHoleWhileDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.slow = time.Millisecond // a list that takes no time might follow itself forever
		watcher := w.watch(t)
		wantNext(t, watcher, "")
		w.breaks(errors.New("down"))
		w.change("a", false) // lost
		w.Hear("g", w.change("b", false))
		before := w.listed()
		time.Sleep(time.Minute)
		if n := w.listed() - before; n < 55 || n > 60 {
			t.Errorf("%d lists in a minute", n)
		}
		w.breaks(nil)
		began := time.Now()
		wantNext(t, watcher, "+a +b")
		if took := time.Since(began); took > 2*retryAfter {
			t.Errorf("the list came %v after lists worked again", took)
		}
	})
}

// Two lists are Every apart, give or take a tenth.
func TestWatchEvery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		watcher := w.watch(t)
		wantNext(t, watcher, "")
		for n := range 50 {
			began := time.Now()
			w.change(fmt.Sprint(n), false) // nobody hears it
			wantNext(t, watcher, fmt.Sprint("+", n))
			if took := time.Since(began); took < 54*time.Minute || took > 66*time.Minute {
				t.Errorf("list %d came after %v", n, took)
			}
		}
	})
}

// What is heard while a list is under way is newer than the list, whether it could be
// told at once or had to wait.
func TestWatchDuringList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.change("a", false)
		w.slow = 100 * time.Millisecond
		watcher := w.watch(t)
		time.Sleep(10 * time.Millisecond)
		w.Hear("g", w.change("b", false))
		wantNext(t, watcher, "+a +b")
		time.Sleep(retryAfter)
		w.Doubt()
		time.Sleep(10 * time.Millisecond)
		if w.listed() != 2 {
			t.Fatalf("%d lists, want the second to be under way", w.listed())
		}
		w.Hear("g", w.change("c", false))
		w.Hear("g", w.change("a", true))
		wantNext(t, watcher, "+c -a")
		d := w.change("d", false)
		w.Hear("g", w.change("e", false))
		time.Sleep(100 * time.Millisecond) // the list has come
		w.Hear("g", d)
		wantNext(t, watcher, "+d +e")
		if time.Sleep(2 * holePatience); w.listed() != 2 {
			t.Fatalf("%d lists although nothing was lost", w.listed())
		}

		// More than can be remembered until the list comes: there is another one.
		w.Doubt()
		time.Sleep(10 * time.Millisecond)
		for range maxEarly / 2 {
			w.Hear("g", w.change("f", false))
			w.Hear("g", w.change("f", true))
		}
		w.Hear("g", w.change("f", false))
		w.Hear("g", w.change("g", false))
		wantNext(t, watcher, "+f +g")
		time.Sleep(2 * retryAfter)
		w.Hear("g", w.change("f", true))
		wantNext(t, watcher, "-f")
		if w.listed() != 4 {
			t.Fatalf("%d lists, want one for the doubt and one more", w.listed())
		}
	})
}

func TestWatchFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		down := errors.New("down")
		w.breaks(down)
		first := w.watch(t)
		wantError(t, first, down)
		first.Close()
		w.breaks(nil)
		second := w.watch(t)
		wantNext(t, second, "")
		w.breaks(down)
		w.Doubt()
		time.Sleep(time.Minute)
		w.change("a", false)
		w.breaks(nil)
		wantNext(t, second, "+a")
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		var err error
		for err == nil { // the list may have one more call return
			_, _, err = second.Next(ctx)
		}
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("error with a context that is done is %v", err)
		}
	})
}

// Whoever begins to watch is told at once why the last list failed, and the topic goes on
// until the last one has closed.
func TestWatchTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		down := errors.New("down")
		w.breaks(down)
		var all []*Watcher
		began := time.Now()
		for n := range 2 {
			all = append(all, w.watch(t))
			wantError(t, all[n], down)
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("the second one is told after %v", took)
		}
		w.breaks(nil)
		all[0].Close()
		wantNext(t, all[1], "")
		all[1].Close()
		if heard, _ := w.Hear("g", []byte{version}); heard {
			t.Error("the topic goes on when nobody watches it")
		}
	})
}

func TestClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		watcher := w.watch(t)
		wantNext(t, watcher, "")
		other := NewRoom(w.config)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		other.Run(ctx)
		if _, err := other.Watch("g"); !errors.Is(err, errs.Closed) {
			t.Fatalf("error of a Room that has ended is %v", err)
		}
		if heard, _ := w.Hear("other", []byte{version}); heard {
			t.Fatal("a topic that nobody watches was heard")
		}
		if heard, err := w.Hear("g", []byte{9}); !heard || err == nil {
			t.Fatalf("a malformed packet: %v, %v", heard, err)
		}
	})
}

// Whatever is lost, doubled or late, a caller that is as slow as it likes has the list
// in the end, and is never told anything twice.
func TestWatchRandom(t *testing.T) {
	for seed := range uint64(200) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 1))
			w := newWorld(t)
			watcher := w.watch(t)
			has := make(map[string]bool)
			take := func(ctx context.Context) bool {
				came, left, err := watcher.Next(ctx)
				for _, s := range came {
					if has[s.ID] {
						t.Fatalf("seed %d: %s came twice", seed, s.ID)
					}
					has[s.ID] = true
				}
				for _, s := range left {
					if !has[s.ID] {
						t.Fatalf("seed %d: %s left without having come", seed, s.ID)
					}
					delete(has, s.ID)
				}
				return err == nil
			}
			var late [][]byte
			for range 300 {
				id := fmt.Sprint(r.IntN(8))
				_, there := w.there[id]
				packet := w.change(id, there)
				if n := r.IntN(10); n > 0 {
					late = append(late, packet)
				}
				for len(late) > 0 && r.IntN(3) > 0 {
					i := r.IntN(min(len(late), 3))
					w.Hear("g", late[i])
					if r.IntN(10) > 0 {
						late = slices.Delete(late, i, i+1)
					}
				}
				switch r.IntN(20) {
				case 0:
					w.Doubt()
				case 1:
					time.Sleep(time.Duration(r.IntN(2000)) * time.Millisecond)
				case 2:
					ctx, cancel := context.WithTimeout(t.Context(), time.Second)
					take(ctx)
					cancel()
				}
			}
			w.Doubt()
			time.Sleep(time.Minute)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			for take(ctx) {
			}
			want, got := slices.Sorted(maps.Keys(w.there)), slices.Sorted(maps.Keys(has))
			if !slices.Equal(got, want) {
				t.Fatalf("seed %d: has %v, want %v", seed, got, want)
			}
		})
	}
}

func FuzzDecode(f *testing.F) {
	w := &world{there: make(map[string]Session)}
	f.Add(w.change("a", false))
	f.Add(append(w.change("a", true), w.change("b", false)[1:]...))
	f.Fuzz(func(t *testing.T, b []byte) {
		changes, err := decode(b)
		if err != nil {
			return
		}
		again := []byte{version}
		for _, c := range changes {
			again = appendChange(again, c)
		}
		if back, err := decode(again); err != nil || !slices.Equal(back, changes) {
			t.Fatalf("%v and %v: %v", changes, back, err)
		}
	})
}
