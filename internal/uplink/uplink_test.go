package uplink_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heraldgo/herald/internal/uplink"
)

type link struct{ dead error }

var (
	errStart  = errors.New("not yet connected")
	errClosed = errors.New("closed")
	errCut    = errors.New("cut")
)

func open(ctx context.Context) *uplink.Uplink[*link] {
	return uplink.New(ctx, func(l *link) error { return l.dead }, errStart, errClosed)
}

func nothing() {}

// Await waits for a link that is up and lives, over links that die.
func TestAwait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := open(t.Context())
		if u.Link() != nil || u.Health() != errStart {
			t.Errorf("at first: link %v, health %v", u.Link(), u.Health())
		}
		var got *link
		await := func() {
			got = nil
			go func() {
				l, err := u.Await(t.Context())
				if err != nil {
					t.Error(err)
				}
				got = l
			}()
		}
		expect := func(want *link) {
			t.Helper()
			synctest.Wait()
			if got != want {
				t.Fatalf("Await returned %p, want %p", got, want)
			}
		}

		first, second := &link{}, &link{}
		await()
		expect(nil)
		u.Set(first)
		expect(nil)
		if u.Link() != first {
			t.Error("Link is not what was set")
		}
		u.Up(first, func() { expect(nil) })
		expect(first)
		if u.Health() != nil {
			t.Error(u.Health())
		}

		first.dead = errCut // and nobody has noted it
		await()
		expect(nil)
		u.Down(errCut)
		expect(nil)
		if u.Health() != errCut {
			t.Error(u.Health())
		}
		u.Fail(errStart)
		expect(nil)
		if u.Health() != errStart {
			t.Error(u.Health())
		}
		u.Up(second, nothing)
		expect(second)
	})
}

// Whoever waits is let go, for whatever he waits.
func TestAwaitEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, dead := range []bool{false, true} {
			ctx, closing := context.WithCancel(t.Context())
			u := open(ctx)
			if dead {
				u.Up(&link{dead: errCut}, nothing)
			}
			short, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if _, err := u.Await(short); err != context.DeadlineExceeded {
				t.Errorf("dead %v: %v", dead, err)
			}
			time.AfterFunc(time.Second, closing)
			if _, err := u.Await(t.Context()); err != errClosed {
				t.Errorf("dead %v: %v", dead, err)
			}
		}
	})
}

// A gap begins with the last proof of the link that was lost.
func TestProve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := open(t.Context())
		old, present := &link{}, &link{}
		time.Sleep(time.Second)
		begin := time.Now()
		u.Set(present)
		if u.Prove(present, begin.Add(time.Minute)) {
			t.Error("a link was proved that is not up")
		}
		u.Up(present, nothing)
		if !u.Proved().Equal(begin) {
			t.Errorf("proved %v, want %v", u.Proved(), begin)
		}
		if u.Prove(old, begin.Add(time.Minute)) || !u.Proved().Equal(begin) {
			t.Error("a link was proved that is not the present one")
		}
		later := begin.Add(time.Second)
		if !u.Prove(present, later) || !u.Prove(present, begin) {
			t.Error("the present link was not proved")
		}
		if since := u.Down(errCut); !since.Equal(later) {
			t.Errorf("down since %v, want %v", since, later)
		}
		if u.Prove(present, later.Add(time.Minute)) {
			t.Error("a link was proved that is down")
		}
	})
}

// A link that is being set up is not returned for the one before, which came
// up while Await waited and is gone already.
func TestAwaitReplaced(t *testing.T) {
	for range 100 {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			u := open(t.Context())
			result := make(chan error)
			go func() {
				_, err := u.Await(ctx)
				result <- err
			}()
			synctest.Wait()
			u.Up(&link{dead: errCut}, nothing)
			u.Down(errCut)
			u.Set(&link{})
			if err := <-result; err != context.DeadlineExceeded {
				t.Fatalf("Await returned a link that is not up, %v", err)
			}
		})
	}
}

// A link that is being set up is tried until a probe comes back, or it is
// known why none does.
func TestProveNew(t *testing.T) {
	errDeaf, errBusy := errors.New("deaf"), errors.New("busy")
	for name, test := range map[string]struct {
		loops []error // what the attempts answer, the last one from then on
		end   func(l *link, die, closing func())
		want  error
		tries int
	}{
		"at once":    {loops: []error{nil}, tries: 1},
		"deaf":       {loops: []error{errDeaf}, want: errDeaf, tries: 1},
		"later":      {loops: []error{errBusy, errBusy, nil}, tries: 3},
		"deaf later": {loops: []error{errBusy, errDeaf}, want: errDeaf, tries: 2},
		"dies":       {loops: []error{errBusy}, end: func(l *link, die, _ func()) { l.dead = errCut; die() }, want: errCut},
		"closed":     {loops: []error{errBusy}, end: func(_ *link, _, closing func()) { closing() }, want: errClosed},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, closing := context.WithCancel(t.Context())
				defer closing()
				dead := make(chan struct{})
				u, l := open(ctx), &link{}
				if test.end != nil {
					time.AfterFunc(time.Minute, func() { test.end(l, func() { close(dead) }, closing) })
				}
				tries := 0
				err := u.ProveNew(l, dead, errDeaf, func() error {
					if tries > 0 && u.Health() != errBusy {
						t.Errorf("after attempt %d Health is %v", tries, u.Health())
					}
					if tries++; tries > 1000 {
						t.Fatal("it is tried for ever")
					}
					return test.loops[min(tries, len(test.loops))-1]
				})
				if err != test.want {
					t.Errorf("got %v, want %v", err, test.want)
				}
				if test.tries != 0 && tries != test.tries {
					t.Errorf("%d attempts, want %d", tries, test.tries)
				}
			})
		})
	}
}
