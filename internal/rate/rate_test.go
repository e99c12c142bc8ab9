package rate

import (
	"testing"
	"testing/synctest"
	"time"
)

// A bucket holds a second's worth, and is filled evenly.
func TestAllow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b Bucket
		for _, step := range []struct {
			pause   time.Duration
			n, want int
		}{{0, 20, 10}, {99 * time.Millisecond, 1, 0}, {time.Millisecond, 2, 1}, {time.Hour, 20, 10}} {
			time.Sleep(step.pause)
			taken := 0
			for range step.n {
				if b.Allow(10) {
					taken++
				}
			}
			if taken != step.want {
				t.Errorf("%+v: got %d", step, taken)
			}
		}
		for _, off := range []int{0, -1} {
			if !b.Allow(off) {
				t.Errorf("a limit of %d is one", off)
			}
		}
		if one := new(Bucket); !one.Allow(1) || one.Allow(1) {
			t.Error("a limit of 1 is not one a second")
		}
	})
}

// A bucket gives no more than burst at once, spends nothing that it refuses,
// and takes nothing back if the limit becomes smaller.
func TestSpend(t *testing.T) {
	const second = int64(time.Second)
	var b Bucket
	for i, step := range []struct {
		now, n, limit, burst int64
		want                 bool
	}{
		{1, 501, 100, 500, false},
		{1, 500, 100, 500, true},
		{1, 1, 100, 500, false},
		{1 + second, 101, 100, 500, false},
		{1 + second, 100, 100, 500, true},
		{1 + second, 0, 100, 500, true},
		{1 + 60*second, 501, 100, 500, false},
		{1 + 60*second, 1, 100, 100, true},
		{1 + 60*second, 499, 100, 100, true},
		{1 + 60*second, 1, 100, 100, false},
	} {
		if got := b.Spend(step.now, step.n, step.limit, step.burst); got != step.want {
			t.Errorf("step %d: %+v", i, step)
		}
	}
}

// What comes after a time in which nobody read is no burst, up to a bound.
func TestUnread(t *testing.T) {
	const second = int64(time.Second)
	var b Bucket
	b.Spend(second, 500, 100, 500)
	b.Unread(second, 11*second, 100, 500)
	if !b.Spend(11*second, 1000, 100, 500) || b.Spend(11*second, 1, 100, 500) {
		t.Error("ten seconds are not worth 1000")
	}
	b.Unread(11*second, 1<<60, 100, 500)
	if !b.Spend(1<<60, 500+maxBacklog, 100, 500) || b.Spend(1<<60, 1, 100, 500) {
		t.Error("the backlog is not bounded")
	}
	b = Bucket{last: second, tokens: maxBacklog + 1000} // of a larger burst
	b.Unread(second, 2*second, 100, 500)
	if !b.Spend(2*second, maxBacklog+1000, 100, 500) || b.Spend(2*second, 1, 100, 500) {
		t.Error("tokens were taken back, or given above the bound")
	}
}
