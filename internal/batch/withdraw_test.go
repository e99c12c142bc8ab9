package batch

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// Of the queue no more than half are calls that have been given up, and what
// is left of it is committed.
func TestWithdrawn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		want := []int{0, 6, 7}
		var committed []int
		ready, end := 0, errors.New("end")
		b := New(Config[int]{
			Ready: func() error {
				if ready++; ready > len(want) {
					t.Errorf("called for the %dth time", ready)
					return end
				}
				return nil
			},
			Commit: func(items []int) []error {
				committed = append(committed, items...)
				time.Sleep(time.Second)
				return nil
			},
			MaxItems: 1,
		})
		begin := func(item int) (give func()) {
			ctx, cancel := context.WithCancel(t.Context())
			go func() {
				if err := b.Do(ctx, item); err != nil && !errors.Is(err, context.Canceled) {
					t.Errorf("item %d: %v", item, err)
				}
			}()
			synctest.Wait()
			return cancel
		}
		begin(0) // is under way
		give := make([]func(), 6)
		for i := range give {
			give[i] = begin(i + 1)
		}
		// It is searched only once it is worth it.
		for _, step := range []struct{ item, queued, gone int }{{1, 6, 1}, {3, 6, 2}, {4, 6, 3}, {5, 2, 0}, {2, 2, 1}} {
			give[step.item-1]()
			synctest.Wait()
			b.mu.Lock()
			if len(b.queue) != step.queued || b.gone != step.gone {
				t.Errorf("without item %d %d are queued, %d of them given up, want %d and %d", step.item, len(b.queue), b.gone, step.queued, step.gone)
			}
			b.mu.Unlock()
		}
		begin(7)
		time.Sleep(time.Minute)
		b.Close(end)
		if !slices.Equal(committed, want) {
			t.Errorf("committed %v, want %v", committed, want)
		}
	})
}
