package herald

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A stuckBus is one whose Publish waits for the end of its context, as ctx
// tells it.
type stuckBus struct {
	*MemoryBus
	wait func(ctx context.Context) error
}

func (b *stuckBus) Publish(ctx context.Context, packets ...Packet) error {
	if err := b.wait(ctx); err != nil {
		return err
	}
	return b.MemoryBus.Publish(ctx, packets...)
}

type contextKey struct{}

// Send ends at SendTimeout or with its caller's context, whichever is first,
// whatever way the Bus looks at its context, and says which it was.
func TestSendTimeout(t *testing.T) {
	done := func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	}
	child := func(ctx context.Context) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		return done(ctx)
	}
	ends := func(ctx context.Context) error {
		two, ok := ctx.(interface{ Ends() (a, b <-chan struct{}) })
		if !ok {
			return done(ctx)
		}
		a, b := two.Ends()
		select {
		case <-a:
		case <-b:
		}
		return ctx.Err()
	}
	both := func(ctx context.Context) error { // at the same time
		var waiting sync.WaitGroup
		waiting.Go(func() { child(ctx) })
		defer waiting.Wait()
		return ends(ctx)
	}
	for name, wait := range map[string]func(context.Context) error{"Done": done, "child": child, "Ends": ends, "both": both} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				bus := &stuckBus{MemoryBus: NewMemoryNetwork().Bus(), wait: func(context.Context) error { return nil }}
				h := newHub(t, Config{Bus: bus, Registry: NewMemoryRegistry(), SendTimeout: time.Second, ProbeInterval: -1})
				bus.wait = wait
				cause := errors.New("cause")
				cancelable, cancel := context.WithCancelCause(context.Background())
				soon, cancelSoon := context.WithTimeout(context.Background(), 100*time.Millisecond)
				defer cancelSoon()
				late, cancelLate := context.WithTimeout(context.Background(), time.Hour)
				defer cancelLate()
				for _, c := range []struct {
					name string
					ctx  context.Context
					at   time.Duration
					err  error
				}{
					{"soon", soon, 100 * time.Millisecond, context.DeadlineExceeded},
					{"background", context.Background(), time.Second, ErrBusDown},
					{"values", context.WithValue(context.Background(), contextKey{}, 1), time.Second, ErrBusDown},
					{"cancelable", cancelable, time.Second, ErrBusDown},
					{"late", late, time.Second, ErrBusDown},
				} {
					start := time.Now()
					err := h.Send(c.ctx, User("u"), Text("m"))
					took := time.Since(start)
					if !errors.Is(err, c.err) || !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrBusDown) != (c.err == ErrBusDown) {
						t.Errorf("%s: %v", c.name, err)
					}
					if least := c.at - c.at/64; took > c.at || took < least {
						t.Errorf("%s: it took %v, not %v to %v", c.name, took, least, c.at)
					}
				}
				time.AfterFunc(500*time.Millisecond, func() { cancel(cause) })
				if err := h.Send(cancelable, User("u"), Text("m")); !errors.Is(err, context.Canceled) || errors.Is(err, ErrBusDown) {
					t.Errorf("cancelled: %v", err)
				}
				bus.wait = func(ctx context.Context) error { // what has ended first stays
					err := wait(ctx)
					cancelLate()
					return cmp.Or(ctx.Err(), err)
				}
				if err := h.Send(late, User("u"), Text("m")); !errors.Is(err, ErrBusDown) || !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("cancelled after SendTimeout: %v", err)
				}
				bus.wait = func(ctx context.Context) error {
					if at, ok := ctx.Deadline(); !ok || time.Until(at) > time.Second {
						t.Errorf("Deadline: %v, %v", at, ok)
					}
					if ctx.Value(contextKey{}) != 2 {
						t.Error("the caller's value is not there")
					}
					return nil
				}
				if err := h.Send(context.WithValue(context.WithoutCancel(late), contextKey{}, 2), User("u"), Text("m")); err != nil {
					t.Error(err)
				}
				bus.wait = func(context.Context) error { return nil } // for the goodbye
			})
		})
	}
}
