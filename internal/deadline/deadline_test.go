package deadline

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var (
	errTimeout = errors.New("timeout")
	errCaller  = errors.New("caller's")
)

type key struct{}

// waits are the ways in which somebody awaits the end of a context.
var waits = map[string]func(context.Context){
	"Done":  done,
	"child": child,
	"Ends":  ends,
	"AfterFunc": func(ctx context.Context) {
		ended := make(chan struct{})
		defer context.AfterFunc(ctx, func() { close(ended) })()
		<-ended
	},
	"both": func(ctx context.Context) {
		var waiting sync.WaitGroup
		waiting.Go(func() { child(ctx) })
		ends(ctx)
		waiting.Wait()
	},
}

func done(ctx context.Context) { <-ctx.Done() }

func child(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	<-ctx.Done()
}

func ends(ctx context.Context) {
	two, ok := ctx.(interface{ Ends() (a, b <-chan struct{}) })
	if !ok {
		done(ctx)
		return
	}
	a, b := two.Ends()
	select {
	case <-a:
	case <-b:
	}
}

// A bound context ends at the deadline or with its caller's, whichever is
// first, says which it was, and stays with what it said.
func TestBound(t *testing.T) {
	for name, wait := range waits {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := New(time.Second, errTimeout)
				background := context.Background()
				soon := func() (context.Context, context.CancelFunc) {
					return context.WithTimeoutCause(background, 100*time.Millisecond, errCaller)
				}
				late := func() (context.Context, context.CancelFunc) {
					return context.WithTimeout(background, time.Hour)
				}
				cancelled := func() (context.Context, context.CancelFunc) {
					ctx, cancel := context.WithCancelCause(background)
					time.AfterFunc(500*time.Millisecond, func() { cancel(errCaller) })
					return ctx, func() { cancel(nil) }
				}
				for _, c := range []struct {
					name       string
					make       func() (context.Context, context.CancelFunc)
					at         time.Duration
					err, cause error
				}{
					{"background", func() (context.Context, context.CancelFunc) { return background, func() {} }, time.Second, context.DeadlineExceeded, errTimeout},
					{"values", func() (context.Context, context.CancelFunc) {
						return context.WithValue(background, key{}, 1), func() {}
					}, time.Second, context.DeadlineExceeded, errTimeout},
					{"soon", soon, 100 * time.Millisecond, context.DeadlineExceeded, errCaller},
					{"late", late, time.Second, context.DeadlineExceeded, errTimeout},
					{"cancelled", cancelled, 500 * time.Millisecond, context.Canceled, errCaller},
				} {
					callers, cancel := c.make()
					ctx, release := s.Now().Bound(callers)
					if ctx.Err() != nil || context.Cause(ctx) != nil {
						t.Errorf("%s: at first Err is %v, Cause %v", c.name, ctx.Err(), context.Cause(ctx))
					}
					at, ok := ctx.Deadline()
					if own, has := callers.Deadline(); !ok || time.Until(at) > time.Second || has && at.After(own) {
						t.Errorf("%s: Deadline in %v, %v", c.name, time.Until(at), ok)
					}
					start := time.Now()
					wait(ctx)
					if took := time.Since(start); took > c.at || took < c.at-c.at/parts {
						t.Errorf("%s: it took %v, not %v", c.name, took, c.at)
					}
					for range 2 {
						if ctx.Err() != c.err || context.Cause(ctx) != c.cause {
							t.Errorf("%s: Err is %v, Cause %v", c.name, ctx.Err(), context.Cause(ctx))
						}
						select {
						case <-ctx.Done():
						default:
							t.Errorf("%s: Done is open", c.name)
						}
						cancel() // what has ended first stays
						time.Sleep(2 * time.Second)
					}
					childs, stop := context.WithCancel(ctx)
					if context.Cause(childs) != c.cause {
						t.Errorf("%s: a child's Cause is %v", c.name, context.Cause(childs))
					}
					stop()
					release()
				}
			})
		})
	}
}

// A child ends at the deadline, with its parent, or when it is cancelled; and stays so.
func TestChild(t *testing.T) {
	for name, wait := range waits {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				for _, c := range []struct {
					name       string
					own, other time.Duration // when the child and the parent are cancelled
					at         time.Duration
					err, cause error
				}{
					{"cancelled", 300 * time.Millisecond, time.Hour, 300 * time.Millisecond, context.Canceled, context.Canceled},
					{"parent", time.Hour, 300 * time.Millisecond, 300 * time.Millisecond, context.Canceled, errCaller},
					{"deadline", time.Hour, time.Hour, time.Second, context.DeadlineExceeded, errTimeout},
				} {
					parent, cancelParent := context.WithCancelCause(context.WithValue(t.Context(), key{}, 1))
					ctx, cancel := New(time.Second, errTimeout).Now().Child(parent)
					own, other := time.AfterFunc(c.own, cancel), time.AfterFunc(c.other, func() { cancelParent(errCaller) })
					start := time.Now()
					wait(ctx)
					if took := time.Since(start); took != c.at {
						t.Errorf("%s: it took %v, not %v", c.name, took, c.at)
					}
					for range 2 {
						if ctx.Err() != c.err || context.Cause(ctx) != c.cause || ctx.Value(key{}) != 1 {
							t.Errorf("%s: Err is %v, Cause %v, the value %v", c.name, ctx.Err(), context.Cause(ctx), ctx.Value(key{}))
						}
						cancel() // what has ended first stays
						cancelParent(nil)
					}
					own.Stop()
					other.Stop()
				}
			})
		})
	}
}

// A child that nobody awaited before it was cancelled ends all the same, and so do its
// children.
func TestChildAwaitedLate(t *testing.T) {
	for name, parent := range map[string]context.Context{"background": context.Background(), "of a test": t.Context()} {
		ctx, cancel := New(time.Hour, errTimeout).Now().Child(parent)
		cancel()
		if err := ctx.Err(); err != context.Canceled {
			t.Errorf("%s: Err is %v", name, err)
		}
		if err := context.Cause(ctx); err != context.Canceled {
			t.Errorf("%s: Cause is %v", name, err)
		}
		for _, wait := range waits {
			wait(ctx)
		}
	}
}

// The cause is told whoever asks first, even if the caller's context has ended
// since.
func TestCauseWithoutDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		callers, cancel := context.WithCancelCause(context.Background())
		ctx, release := New(time.Second, errTimeout).Now().Bound(callers)
		defer release()
		time.Sleep(time.Second)
		synctest.Wait() // for the deadline's timer, which is due at the same time
		if err := ctx.Err(); err != context.DeadlineExceeded {
			t.Error(err)
		}
		cancel(errCaller)
		if err := cmp.Or(context.Cause(ctx), errCaller); err != errTimeout {
			t.Error(err)
		}
	})
}

// The shared deadline may come just before the timer of a context whose Done was
// asked for. It is the cause all the same, and nothing is left waiting.
func TestCauseAtTie(t *testing.T) {
	callers, cancel := context.WithCancel(context.Background())
	defer cancel()
	d := New(50*time.Millisecond, errTimeout).Now()
	ctx, release := d.Bound(callers)
	defer release()
	before := ctx.Done()
	d.ctx, d.cancel = context.WithDeadlineCause(context.Background(), time.Now(), errTimeout)
	defer d.cancel()
	if err := ctx.Err(); err != context.DeadlineExceeded {
		t.Error(err)
	}
	if err := context.Cause(ctx); err != errTimeout {
		t.Errorf("the cause is %v", err)
	}
	<-ctx.Done()
	<-before
}

// A function is not called if it was stopped, and release ends what waits.
func TestAfterFunc(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		callers, cancel := context.WithCancel(context.Background())
		defer cancel()
		ctx, release := New(time.Second, errTimeout).Now().Bound(callers)
		called := false
		if stop := context.AfterFunc(ctx, func() { called = true }); !stop() {
			t.Error("it could not be stopped")
		}
		synctest.Wait()
		if called {
			t.Error("it was called")
		}
		ended := false
		context.AfterFunc(ctx, func() { ended = true })
		release()
		synctest.Wait()
		if !ended {
			t.Error("release has left it waiting")
		}
		release() // again
	})
}

// The caller's values are there, before and after the end.
func TestValues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, release := New(time.Second, errTimeout).Now().Bound(context.WithValue(context.Background(), key{}, 1))
		defer release()
		for _, f := range []func(){func() {}, func() { ctx.Done() }, func() { time.Sleep(time.Second); synctest.Wait(); ctx.Err() }} {
			f()
			if ctx.Value(key{}) != 1 {
				t.Error("the value is gone")
			}
		}
	})
}

// What begins within a 64th of the timeout shares a deadline, what begins later
// has the next one, and all goroutines get the same.
func TestNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(64*time.Second, errTimeout)
		first := s.Now()
		time.Sleep(time.Second - 1)
		if s.Now() != first {
			t.Error("another deadline within the first part")
		}
		time.Sleep(time.Nanosecond)
		second := s.Now()
		if second == first {
			t.Error("the same deadline after the first part")
		}
		a, _ := first.ctx.Deadline()
		b, _ := second.ctx.Deadline()
		if got := b.Sub(a); got != time.Second || time.Until(b) != 64*time.Second {
			t.Errorf("deadlines %v apart, the second in %v", got, time.Until(b))
		}
		time.Sleep(time.Minute)
		var all [8]*Deadline
		var asking sync.WaitGroup
		for i := range all {
			asking.Go(func() { all[i] = s.Now() })
		}
		asking.Wait()
		for _, d := range all {
			if d != all[0] || d == second {
				t.Error("goroutines got several deadlines")
			}
		}
		time.Sleep(2 * time.Minute) // for the timers
	})
}
