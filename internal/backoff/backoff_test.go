package backoff_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heraldgo/herald/internal/backoff"
)

// within fails unless got is of a wait that is due: at least half of it, and
// never more.
func within(t *testing.T, got, due time.Duration) {
	t.Helper()
	if got < due/2 || got > due {
		t.Errorf("got %v, want %v to %v", got, due/2, due)
	}
}

func TestFail(t *testing.T) {
	for _, max := range []time.Duration{0, 500 * time.Millisecond, time.Hour} {
		b := backoff.Backoff{Max: max}
		if max == 0 {
			max = 5 * time.Second
		}
		for i := range 100 {
			within(t, b.Fail(), min(50*time.Millisecond<<min(i, 10), max))
		}
	}
}

// Whoever waits the same time comes back at the same moment.
func TestJitter(t *testing.T) {
	seen := map[time.Duration]bool{}
	for range 100 {
		var b backoff.Backoff
		seen[b.Fail()] = true
	}
	if len(seen) < 2 {
		t.Error("all waits are the same")
	}
}

func TestLost(t *testing.T) {
	var b backoff.Backoff
	if d := b.Lost(0); d != 0 {
		t.Errorf("a first link that is lost waits %v", d)
	}
	within(t, b.Lost(0), 100*time.Millisecond)
	within(t, b.Lost(5*time.Second-1), 200*time.Millisecond)
	within(t, b.Fail(), 400*time.Millisecond)
	if d := b.Lost(5 * time.Second); d != 0 {
		t.Errorf("a link that has lived long waits %v", d)
	}
	within(t, b.Fail(), 100*time.Millisecond) // it was the first of a new row

	short := backoff.Backoff{Max: 500 * time.Millisecond}
	short.Fail()
	if d := short.Lost(500 * time.Millisecond); d != 0 {
		t.Errorf("a link that has lived for Max waits %v", d)
	}
}

func TestReconnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b backoff.Backoff
		begin, tries := time.Now(), 0
		connect := func() error {
			waits := []time.Duration{0, 100 * time.Millisecond, 200 * time.Millisecond}
			if got, due := time.Since(begin), waits[tries]; got < due/2 || got > due {
				t.Errorf("attempt %d after %v, want %v", tries, got, due)
			}
			begin = time.Now()
			if tries++; tries == len(waits) {
				return nil
			}
			return errors.New("no")
		}
		if !b.Reconnect(t.Context(), time.Hour, connect) || tries != 3 {
			t.Errorf("gave up after %d attempts", tries)
		}

		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		begin, tries = time.Now(), 0
		if b.Reconnect(ctx, 0, func() error {
			if tries++; tries > 1000 {
				t.Fatal("it does not wait")
			}
			return errors.New("never")
		}) {
			t.Error("connected, it says")
		}
		if got := time.Since(begin); got != time.Minute {
			t.Errorf("gave up after %v, not with the context", got)
		}
	})
}

// Where no wait is due none is given up.
func TestReconnectAtOnce(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for range 100 {
		var b backoff.Backoff
		if !b.Reconnect(ended, time.Hour, func() error { return nil }) {
			t.Fatal("gave up before the first attempt")
		}
	}
}
