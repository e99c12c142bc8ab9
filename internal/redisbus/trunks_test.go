package redisbus

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heraldgo/herald/internal/errs"
)

// Partitions whose links share two trunks share a proof while it is young, unless
// something was wrong.
func TestSharedProof(t *testing.T) {
	const tick, takes = time.Second, time.Second / 10
	synctest.Test(t, func(t *testing.T) {
		var proof sharedProof
		var made atomic.Int64
		pair, other := new(trunk), new(trunk)
		share := func(with *trunk, err error) finding {
			return proof.share(t.Context(), with, tick/2, func() finding {
				made.Add(1)
				began := time.Now()
				time.Sleep(takes)
				return finding{since: began, err: err}
			})
		}
		expect := func(want int64) {
			t.Helper()
			if n := made.Swap(0); n != want {
				t.Errorf("%d proofs were made, want %d", n, want)
			}
		}
		all := func(with *trunk, err error) {
			t.Helper()
			start := time.Now()
			var sharing sync.WaitGroup
			for range 5 {
				sharing.Go(func() {
					if found := share(with, err); found.err != err || err == nil && !found.since.Equal(start) {
						t.Errorf("found %v since %v, want %v since %v", found.err, found.since, err, start)
					}
				})
			}
			sharing.Wait()
			time.Sleep(tick)
		}

		all(pair, errs.BusDown)
		expect(5) // each for itself, as it may be another's fault
		all(pair, nil)
		expect(1)
		all(nil, nil)
		expect(5)
		share(pair, nil)
		time.Sleep(tick/2 - takes - 1)
		share(pair, nil)
		expect(1)
		share(other, nil)
		expect(1)
		time.Sleep(tick / 2)
		share(other, nil)
		expect(1)
	})
}

// A trunk is connected once for all who ask at the same time, and anew when the
// last attempt has failed or its trunk has died.
func TestTrunks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ts := newTrunks()
		key := trunkKey{"a", true}
		var dialed atomic.Int64
		get := func(ctx context.Context, key trunkKey, err error) (*trunk, error) {
			return ts.get(ctx, key, func() (*trunk, error) {
				dialed.Add(1)
				time.Sleep(time.Second)
				return &trunk{}, err
			})
		}
		expect := func(want int64) {
			t.Helper()
			if n := dialed.Swap(0); n != want {
				t.Errorf("dialed %d times, want %d", n, want)
			}
		}
		var getting sync.WaitGroup
		for range 5 {
			getting.Go(func() {
				if _, err := get(t.Context(), key, errs.BusDown); err != errs.BusDown {
					t.Errorf("got %v, want %v", err, errs.BusDown)
				}
			})
		}
		getting.Wait()
		expect(1)
		getting.Go(func() { get(t.Context(), key, nil) })
		synctest.Wait()
		impatient, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, err := get(impatient, key, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the error of one who cannot wait: %v", err)
		}
		getting.Wait()
		first, _ := get(t.Context(), key, nil)
		expect(1)
		get(t.Context(), trunkKey{"a", false}, nil)
		expect(1)
		first.err = errs.Closed
		if second, _ := get(t.Context(), key, nil); second == first {
			t.Error("got a dead trunk")
		}
		expect(1)

		get(t.Context(), trunkKey{"b", true}, errs.BusDown)
		get(t.Context(), trunkKey{"c", true}, nil)
		if len(ts.last) != 3 { // a in both directions, and c
			t.Errorf("%d trunks are known, want the 3 that live", len(ts.last))
		}

		for range 100 { // two channels may be ready
			ctx, cancel := context.WithCancel(t.Context())
			connected, err := newTrunks().get(ctx, key, func() (*trunk, error) {
				cancel()
				return new(trunk), nil
			})
			if connected == nil {
				t.Fatalf("a trunk that was connected just as its Bus was closed is nobody's: %v", err)
			}
		}
	})
}
