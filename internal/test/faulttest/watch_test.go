package faulttest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/heraldgo/herald"
)

// A watch keeps asking a Hub about users who are online all the time, and checks
// each answer without an error.
type watch struct {
	stop chan struct{}
	done sync.WaitGroup

	// These belong to its goroutine.

	asked, down int
	wrong       map[string]int       // how often each kind of wrong answer came
	first, last map[string]time.Time // when each kind came first and last
}

// watchOnline starts a watch.
func (n *node) watchOnline(users []string) *watch {
	w := &watch{stop: make(chan struct{}), wrong: make(map[string]int), first: make(map[string]time.Time), last: make(map[string]time.Time)}
	w.done.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-w.stop:
				return
			case <-time.After(2 * time.Millisecond): // others need the processor too
			}
			w.online(n, users)
			w.sessions(n, users[i%len(users)])
			w.count(n, len(users))
		}
	})
	return w
}

func (w *watch) online(n *node, users []string) {
	online, err := n.Online(context.Background(), users...)
	if !w.take("Online", err) {
		return
	}
	missed := 0
	for _, u := range users {
		if !online[u] {
			missed++
		}
	}
	if missed > 0 {
		w.fault("Online: nil, and users who are online are not")
	}
}

func (w *watch) sessions(n *node, user string) {
	sessions, err := n.Sessions(context.Background(), herald.User(user))
	if w.take("Sessions", err) && len(sessions) != 1 {
		w.fault(fmt.Sprintf("Sessions: nil, and %d sessions of a user who has one", len(sessions)))
	}
}

func (w *watch) count(n *node, least int) {
	count, err := n.Count(context.Background())
	if w.take("Count", err) && count < least {
		w.fault("Count: nil, and below the connections that there are all the time")
	}
}

// take counts an answer, and reports whether it has no error.
func (w *watch) take(call string, err error) bool {
	w.asked++
	if err == nil {
		return true
	}
	w.down++
	if !errors.Is(err, herald.ErrRegistryDown) {
		w.fault(fmt.Sprintf("%s: neither nil nor ErrRegistryDown: %v", call, err))
	}
	return false
}

func (w *watch) fault(what string) {
	now := time.Now()
	if w.wrong[what]++; w.wrong[what] == 1 {
		w.first[what] = now
	}
	w.last[what] = now
}

// end ends the watch, and fails the test for each kind of wrong answer.
func (w *watch) end(t testing.TB, since time.Time) {
	t.Helper()
	close(w.stop)
	w.done.Wait()
	t.Logf("asked %d times, %d answers ErrRegistryDown", w.asked, w.down)
	for what, times := range w.wrong {
		t.Errorf("%d times, from %v to %v after the fault: %s", times,
			w.first[what].Sub(since).Round(time.Millisecond), w.last[what].Sub(since).Round(time.Millisecond), what)
	}
}
