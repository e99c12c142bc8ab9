package batch_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heraldgo/herald/internal/batch"
)

var errEnd = errors.New("end")

// A committer takes a second for each commit.
type committer struct {
	batches [][]int
}

func (c *committer) commit(items []int) []error {
	c.batches = append(c.batches, slices.Clone(items))
	time.Sleep(time.Second)
	if slices.Contains(items, 13) {
		errs := make([]error, len(items))
		errs[slices.Index(items, 13)] = errEnd
		return errs
	}
	return nil
}

// do calls Do for each item, one millisecond after the other.
func do(b *batch.Batcher[int], ctx context.Context, items ...int) (wait func() []error) {
	errs := make([]error, len(items))
	var calls sync.WaitGroup
	for i, item := range items {
		calls.Go(func() { errs[i] = b.Do(ctx, item) })
		time.Sleep(time.Millisecond)
	}
	return func() []error { calls.Wait(); return errs }
}

// Ready is called once for each batch, while calls wait for one. This test is
// the first, for what breaks it makes the others spin.
func TestReadyForEach(t *testing.T) {
	for name, test := range map[string]struct {
		items []int
		given int // up while Ready blocks, before the others come
		want  int // batches
	}{
		"one":               {items: []int{1}, want: 1},
		"one after another": {items: []int{1, 2, 3}, want: 3},
		"too large":         {items: []int{11}, want: 1},
		"all given up":      {given: 1, want: 0},
		"most given up":     {given: 3, items: []int{1}, want: 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ready, commits := 0, 0
				b := batch.New(batch.Config[int]{
					Ready: func() error {
						if ready++; ready > max(test.want, 1) {
							t.Errorf("called for the %dth time", ready)
							return errEnd
						}
						time.Sleep(time.Second)
						return nil
					},
					Commit: func(items []int) []error {
						if commits++; len(items) != 1 {
							t.Errorf("a commit of %v", items)
						}
						return nil
					},
					MaxItems: 1, MaxBytes: 10, Size: func(i int) int { return i },
				})
				ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
				defer cancel()
				given := do(b, ctx, make([]int, test.given)...)
				for _, err := range do(b, t.Context(), test.items...)() {
					if err != nil {
						t.Error(err)
					}
				}
				given()
				time.Sleep(time.Minute)
				b.Close(errEnd)
				if commits != test.want {
					t.Errorf("%d commits, want %d", commits, test.want)
				}
			})
		})
	}
}

func TestDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c committer
		b := batch.New(batch.Config[int]{Commit: c.commit, MaxItems: 3, MaxBytes: 100, Size: func(i int) int { return i }})
		errs := do(b, t.Context(), 1, 2, 3, 4, 13, 90, 200, 5, 95)()
		b.Close(errEnd)
		want := [][]int{{1}, {2, 3, 4}, {13}, {90}, {200}, {5, 95}}
		if !slices.EqualFunc(c.batches, want, slices.Equal) {
			t.Errorf("batches %v, want %v", c.batches, want)
		}
		for i, err := range errs {
			if (err != nil) != (i == 4) {
				t.Errorf("call %d: %v", i, err)
			}
		}
	})
}

func TestDoGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c committer
		b := batch.New(batch.Config[int]{Commit: c.commit, MaxItems: 100})
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		wait := do(b, ctx, 1, 2, 3, 4)
		last := do(b, t.Context(), 5)
		errs := wait()
		for i, err := range errs {
			if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, batch.ErrTaken) != (i == 0) {
				t.Errorf("call %d: %v", i, err)
			}
		}
		if err := last()[0]; err != nil {
			t.Error(err)
		}
		if err := b.Do(ctx, 6); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, batch.ErrTaken) {
			t.Errorf("with a context that is done: %v", err)
		}
		b.Close(errEnd)
		if want := [][]int{{1}, {5}}; !slices.EqualFunc(c.batches, want, slices.Equal) {
			t.Errorf("batches %v, want %v", c.batches, want)
		}
	})
}

func TestReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c committer
		errDown := errors.New("down")
		down := true
		b := batch.New(batch.Config[int]{
			Ready: func() error {
				time.Sleep(time.Second)
				if down {
					return errDown
				}
				return nil
			},
			Commit:   c.commit,
			MaxItems: 100,
		})
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		given := do(b, ctx, 1)
		for _, err := range do(b, t.Context(), 2, 3)() {
			if err != errDown {
				t.Errorf("got %v, want %v", err, errDown)
			}
		}
		if err := given()[0]; err != context.DeadlineExceeded {
			t.Errorf("given up before it was ready: %v", err)
		}
		down = false
		if err := b.Do(t.Context(), 4); err != nil {
			t.Error(err)
		}
		b.Close(errEnd)
		if want := [][]int{{4}}; !slices.EqualFunc(c.batches, want, slices.Equal) {
			t.Errorf("batches %v, want %v", c.batches, want)
		}
	})
}

func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c committer
		b := batch.New(batch.Config[int]{Commit: c.commit, MaxItems: 100})
		wait := do(b, t.Context(), 1, 2, 3)
		b.Close(errEnd)
		b.Close(errors.New("again"))
		for i, err := range append(wait(), b.Do(t.Context(), 4)) {
			if i > 0 && err != errEnd || i == 0 && err != nil {
				t.Errorf("call %d: %v", i, err)
			}
		}
	})
}

// Many come and go: what is committed is in order, and nothing is forgotten.
func TestManyComeAndGo(t *testing.T) {
	var committed []int
	b := batch.New(batch.Config[int]{
		Commit:   func(items []int) []error { committed = append(committed, items...); return nil },
		MaxItems: 7,
	})
	var calls sync.WaitGroup
	var mu sync.Mutex
	done := map[int]bool{}
	for i := range 16 {
		calls.Go(func() {
			for j := range 200 {
				ctx, cancel := context.WithCancel(t.Context())
				if j%3 == 0 {
					go cancel()
				}
				item := i*1000 + j
				err := b.Do(ctx, item)
				mu.Lock()
				if !errors.Is(err, batch.ErrTaken) {
					done[item] = err == nil
				}
				mu.Unlock()
				cancel()
			}
		})
	}
	calls.Wait()
	b.Close(errEnd)
	last := map[int]int{}
	for _, item := range committed {
		if ok, known := done[item]; known && !ok {
			t.Errorf("item %d was committed, though it had been withdrawn", item)
		}
		delete(done, item)
		if item < last[item/1000] {
			t.Errorf("item %d was committed after %d", item, last[item/1000])
		}
		last[item/1000] = item
	}
	for item, ok := range done {
		if ok {
			t.Errorf("item %d was not committed", item)
		}
	}
}
