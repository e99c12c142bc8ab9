package redisregistry_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/test/netproxy"
	"github.com/heraldgo/herald/internal/test/redistest"
)

// If a call has returned early, its changes are published when it is done.
func TestLateChanges(t *testing.T) {
	server := redistest.Start(t)
	other := redisRegistry(t, server.Client())
	lease := takeLease(t, other, "n", time.Hour)
	if _, err := other.Watch(t.Context(), lease, time.Hour, "gall"); err != nil {
		t.Fatal(err)
	}
	mustAdd(t, other, lease, someEntries("n", 1)...) // so that the scripts are loaded, too
	if err := other.Remove(t.Context(), lease, someEntries("n", 1)...); err != nil {
		t.Fatal(err)
	}
	entries := someEntries("late", 1)
	for _, left := range []bool{false, true} {
		link := netproxy.Start(t, server.Addr)
		r := redisRegistry(t, registryClient(t, redis.Options{Addr: link.Addr, ReadTimeout: time.Minute}))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		server.Pause()
		go func() {
			var err error
			if left {
				err = r.Remove(ctx, lease, entries...)
			} else {
				_, err = r.Add(ctx, lease, entries...)
			}
			done <- err
		}()
		for link.Find("late.0") == nil {
			time.Sleep(time.Millisecond)
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
		if changes := r.Changes(); len(changes) > 0 {
			t.Errorf("%+v while Redis stands still", changes)
		}
		server.Continue()
		var changes []herald.Change
		for deadline := time.Now().Add(10 * time.Second); len(changes) == 0; time.Sleep(time.Millisecond) {
			if changes = r.Changes(); time.Now().After(deadline) {
				t.Fatalf("left %v: the change is not told", left)
			}
		}
		if len(changes) != 1 || changes[0].Session.ID != "late.0" || changes[0].Left != left {
			t.Errorf("left %v: %+v", left, changes)
		}
	}
}

// If somebody has spoilt a mark, it is made anew, with a number above those given
// so far.
func TestSpoiltMark(t *testing.T) {
	server := redistest.Start(t)
	rdb := server.Client()
	r := redisRegistry(t, rdb)
	lease := takeLease(t, r, "n", time.Hour)
	entries := someEntries("n", 1)
	var last int64
	for _, value := range []string{"", "x", "-1", "1e9", "99999999999999999999", "9007199254740991"} {
		for _, again := range []bool{false, true} { // either Watch or a change sees it first
			if _, err := r.Watch(t.Context(), lease, time.Hour, "gall"); err != nil {
				t.Fatal(err)
			}
			mustAdd(t, r, lease, entries...)
			if changes := r.Changes(); len(changes) != 1 || changes[0].Number <= last {
				t.Fatalf("before %q: %+v, and the last was %d", value, changes, last)
			} else {
				last = changes[0].Number
			}
			if err := rdb.Set(t.Context(), "herald:{0}:w:gall", value, redis.KeepTTL).Err(); err != nil {
				t.Fatal(err)
			}
			if again {
				list, err := r.Watch(t.Context(), lease, time.Hour, "gall")
				if err != nil {
					t.Fatal(err)
				}
				if list[0].Number <= last {
					t.Errorf("after %q the list has number %d, and the last change had %d", value, list[0].Number, last)
				}
				last = list[0].Number
			}
			if err := r.Remove(t.Context(), lease, entries...); err != nil {
				t.Fatal(err)
			}
			if changes := r.Changes(); len(changes) != 1 || changes[0].Number <= last || again && changes[0].Number != last+1 {
				t.Errorf("after %q: %+v, and the last was %d", value, changes, last)
			} else {
				last = changes[0].Number
			}
		}
	}
}
