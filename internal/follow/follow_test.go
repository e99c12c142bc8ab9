package follow

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

const (
	linger  = time.Minute
	timeout = 5 * time.Second
)

// A fakeBus does what it is told after a while, if it is not to fail.
type fakeBus struct {
	t     *testing.T
	takes time.Duration

	mu     sync.Mutex
	err    error // of calls that begin now
	busy   bool
	topics map[string]bool
	calls  []string
}

func (b *fakeBus) Subscribe(ctx context.Context, topics ...string) error {
	return b.change(ctx, true, topics)
}

func (b *fakeBus) Unsubscribe(ctx context.Context, topics ...string) error {
	return b.change(ctx, false, topics)
}

func (b *fakeBus) change(ctx context.Context, to bool, topics []string) error {
	b.mu.Lock()
	err := b.err
	switch {
	case b.busy:
		b.t.Error("two calls at the same time")
	case len(topics) == 0, len(b.calls) > 10_000: // which would go on for ever
		panic(fmt.Sprintf("call %d is about %d topics", len(b.calls), len(topics)))
	}
	b.busy = true
	b.calls = append(b.calls, fmt.Sprint(to, len(topics)))
	b.mu.Unlock()
	select {
	case <-time.After(b.takes):
	case <-ctx.Done():
		err = ctx.Err()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.busy = false
	if err != nil {
		return err
	}
	for _, topic := range topics {
		if b.topics[topic] = to; !to {
			delete(b.topics, topic)
		}
	}
	return nil
}

// fail makes calls fail with err from now on.
func (b *fakeBus) fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.err = err
}

// said returns the calls since it was last asked.
func (b *fakeBus) said() string {
	synctest.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	s := strings.Join(b.calls, ", ")
	b.calls = nil
	return s
}

// newFollower returns a Follower that runs until the test ends.
func newFollower(t *testing.T, takes time.Duration) (*Follower, *fakeBus) {
	bus := &fakeBus{t: t, takes: takes, topics: make(map[string]bool)}
	f := New(bus, linger, timeout)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { f.Run(ctx) })
	// Its timer goes on for ever in a bubble, whatever a test waits for.
	never := time.AfterFunc(1000*time.Hour, func() { panic("what is awaited does not come") })
	t.Cleanup(func() { never.Stop(); cancel(); running.Wait() })
	return f, bus
}

// A topic is handed to the Bus once, if it is wanted by then, and no later than
// it has lingered.
func TestPlan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := New(nil, linger, timeout)
		f.Follow("a", "b", "a")
		f.Unfollow("b")
		subscribe, unsubscribe, _ := f.plan(time.Now())
		if !slices.Equal(subscribe, []string{"a"}) || unsubscribe != nil {
			t.Errorf("at first %q and %q are handed to the Bus", subscribe, unsubscribe)
		}
		f.settle(subscribe, on, nil)
		f.Unfollow("a", "a")
		start := time.Now()
		if subscribe, unsubscribe, next := f.plan(start); subscribe != nil || unsubscribe != nil || next != linger {
			t.Errorf("then %q and %q, and nothing for %v", subscribe, unsubscribe, next)
		}
		subscribe, unsubscribe, next := f.plan(start.Add(linger))
		if subscribe != nil || !slices.Equal(unsubscribe, []string{"a"}) || next != time.Hour {
			t.Errorf("at last %q and %q, and nothing for %v", subscribe, unsubscribe, next)
		}
		if f.settle(unsubscribe, off, nil); f.Len() != 0 {
			t.Errorf("%d topics are left", f.Len())
		}
	})
}

// Follow waits for the Bus, once for all who want a topic, and what nobody wants
// any longer is followed until it has lingered.
func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, bus := newFollower(t, time.Second)
		start := time.Now()
		if f.Follows("a") {
			t.Error("a topic is followed that nobody wanted")
		}
		first, second := f.Follow("a", "b"), f.Follow("b")
		for _, w := range []*Wait{first, second, f.Follow("b"), f.Follow()} {
			if err := w.Wait(t.Context()); err != nil {
				t.Error(err)
			}
		}
		if took := time.Since(start); took != time.Second || !f.Follows("a") || f.Len() != 2 {
			t.Errorf("after %v %d topics are followed", took, f.Len())
		}
		if got := bus.said(); got != "true 2" {
			t.Errorf("the Bus was told %q", got)
		}
		f.Unfollow("a", "b")
		f.Unfollow("b")
		time.Sleep(linger - 1)
		if got := bus.said(); got != "" || !f.Follows("a") {
			t.Errorf("the Bus was told %q before the topic had lingered", got)
		}
		time.Sleep(time.Nanosecond)
		if got := bus.said(); got != "false 1" || !f.Follows("a") {
			t.Errorf("the Bus was told %q", got)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if f.Follows("a") || !f.Follows("b") || f.Len() != 1 {
			t.Errorf("%d topics are left", f.Len())
		}
	})
}

// Who waits for several topics does not wait for one that is given up meanwhile.
func TestUnfollowEndsWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, bus := newFollower(t, time.Second)
		start := time.Now()
		f.Follow("x")
		synctest.Wait() // the Bus is busy with it
		both, alone, shared := f.Follow("a", "b"), f.Follow("b"), f.Follow("c", "d")
		f.Follow("d")
		f.Unfollow("b", "b", "d")
		for _, test := range []struct {
			wait *Wait
			want time.Duration
		}{{alone, 0}, {both, 2 * time.Second}, {shared, 2 * time.Second}} {
			if err := test.wait.Wait(t.Context()); err != nil || time.Since(start) != test.want {
				t.Errorf("waited %v, want %v: %v", time.Since(start), test.want, err)
			}
		}
		if got := bus.said(); got != "true 1, true 3" || f.Follows("b") || !f.Follows("d") {
			t.Errorf("the Bus was told %q", got)
		}
	})
}

// What is wanted again before it has lingered stays; what is wanted again while
// it is given up is asked for again.
func TestFollowAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, bus := newFollower(t, time.Second)
		if err := f.Follow("a").Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		f.Unfollow("a")
		time.Sleep(linger / 2)
		if err := f.Follow("a").Wait(t.Context()); err != nil {
			t.Error(err)
		}
		f.Unfollow("a")
		time.Sleep(linger - 1) // the first is over long since
		if got := bus.said(); got != "true 1" {
			t.Errorf("the Bus was told %q", got)
		}
		time.Sleep(1 + time.Second/2)
		w := f.Follow("a")
		if err := w.Wait(t.Context()); err != nil {
			t.Error(err)
		}
		if got := bus.said(); got != "false 1, true 1" || !f.Follows("a") {
			t.Errorf("the Bus was told %q", got)
		}
		time.Sleep(2 * linger)
		if got := bus.said(); got != "" {
			t.Errorf("the Bus was told %q", got)
		}
	})
}

// Who waits is told of a failure at once, and the Follower goes on trying, ever
// more seldom.
func TestFollowFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, bus := newFollower(t, 0)
		broken := errors.New("it burns")
		bus.fail(broken)
		w := f.Follow("a", "b")
		if err := w.Wait(t.Context()); !errors.Is(err, broken) || !strings.HasPrefix(err.Error(), "follow topics: ") {
			t.Errorf("Wait: %v", err)
		}
		time.Sleep(time.Minute)
		if err := f.Failing(); err != broken || !f.Follows("a") { // it may have been taken
			t.Errorf("Failing: %v", err)
		}
		if n := strings.Count(bus.said(), "true 2"); n < 60/3 || n > 80 {
			t.Errorf("%d tries in a minute", n)
		}
		w = f.Follow("a")
		bus.fail(nil)
		if err := w.Wait(t.Context()); err != nil && !errors.Is(err, broken) {
			t.Error(err)
		}
		time.Sleep(4 * time.Second)
		if err := f.Failing(); err != nil || len(bus.topics) != 2 {
			t.Errorf("Failing: %v, with %v", err, bus.topics)
		}
		bus.said()
		bus.fail(broken) // the pauses begin anew
		f.Follow("c")
		time.Sleep(74 * time.Millisecond)
		if got := bus.said(); !strings.HasPrefix(got, "true 1") {
			t.Errorf("the Bus was told %q", got)
		}
		bus.fail(nil)
		time.Sleep(time.Second)
		f.Unfollow("c")
		bus.fail(broken)
		time.Sleep(linger)
		synctest.Wait()
		if f.Failing() != broken {
			t.Error("a failed Unsubscribe is no failure")
		}
		bus.fail(nil)
		time.Sleep(2 * linger)
		synctest.Wait()
		if f.Failing() != nil || f.Follows("c") || len(bus.topics) != 2 {
			t.Errorf("Failing: %v, with %v", f.Failing(), bus.topics)
		}
	})
}

// A Bus that does not answer is asked again after the timeout; who waits need
// not wait so long.
func TestFollowTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, _ := newFollower(t, time.Hour)
		cause := errors.New("no time")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, cause)
		defer cancel()
		start := time.Now()
		w := f.Follow("a")
		if err := w.Wait(ctx); !errors.Is(err, cause) || time.Since(start) != time.Second {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
		if err := w.Wait(t.Context()); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != timeout {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
	})
}

// Many topics go to the Bus in several calls.
func TestFollowMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, bus := newFollower(t, time.Second)
		topics := make([]string, 2*maxBatch+1)
		for i := range topics {
			topics[i] = fmt.Sprint(i)
		}
		if err := f.Follow(topics...).Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := bus.said(); got != "true 5000, true 5000, true 1" {
			t.Errorf("the Bus was told %q", got)
		}
		f.Unfollow(topics...)
		time.Sleep(linger + 3*time.Second)
		if got := bus.said(); got != "false 5000, false 5000, false 1" || f.Len() != 0 {
			t.Errorf("the Bus was told %q, and %d topics are left", got, f.Len())
		}
	})
}

// Whatever is wanted and given up, and however often the Bus fails, in the end
// the Bus has what is wanted, and nothing else.
func TestFollowRandom(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 0))
			f, bus := newFollower(t, 300*time.Millisecond)
			wants := make(map[string]int)
			var waits []*Wait
			for range 300 {
				topic := fmt.Sprint(random.IntN(8))
				switch {
				case random.IntN(2) == 0:
					wants[topic]++
					waits = append(waits, f.Follow(topic, "all"))
					wants["all"]++
				case wants[topic] > 0:
					wants[topic]--
					f.Unfollow(topic)
				}
				if random.IntN(10) == 0 {
					bus.fail([]error{nil, errors.New("now and then")}[random.IntN(2)])
				}
				time.Sleep(time.Duration(random.Int64N(int64(linger / 20))))
			}
			bus.fail(nil)
			time.Sleep(3 * linger)
			synctest.Wait()
			for _, w := range waits {
				w.Wait(t.Context()) // returns
			}
			n := 0
			for topic, times := range wants {
				if bus.topics[topic] != (times > 0) || f.Follows(topic) != (times > 0) {
					t.Errorf("seed %d: %q is wanted %d times, and on the Bus: %v", seed, topic, times, bus.topics[topic])
				}
				if times > 0 {
					n++
				}
			}
			if len(bus.topics) != n || f.Len() != n || f.Failing() != nil {
				t.Errorf("seed %d: %d topics are wanted, the Bus has %d, the Follower %d (%v)", seed, n, len(bus.topics), f.Len(), f.Failing())
			}
		})
	}
}
