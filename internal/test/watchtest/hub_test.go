package watchtest

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/heraldtest"
)

// watchEnd watches until the loop ends, and returns the error that ended it.
func watchEnd(ctx context.Context, hub *herald.Hub, group string, told func(herald.Presence)) (end error) {
	for p, err := range hub.Watch(ctx, group) {
		if err != nil {
			return err
		}
		told(p)
	}
	return nil
}

func TestEnds(t *testing.T) {
	cluster := heraldtest.NewCluster(t, 1, herald.Config{SendTimeout: 2 * time.Second})
	node := cluster.Nodes[0]
	nothing := func(herald.Presence) { t.Error("told something") }
	if err := watchEnd(t.Context(), node.Hub, "", nothing); !errors.Is(err, herald.ErrInvalid) {
		t.Errorf("a group without a name: %v", err)
	}
	done, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	if err := watchEnd(done, node.Hub, room, func(herald.Presence) { cancel(enough) }); !errors.Is(err, enough) {
		t.Errorf("a context that is done: %v", err)
	}
	for range node.Hub.Watch(t.Context(), room) {
		break
	}
	node.Registry.Cut()
	if err := watchEnd(t.Context(), node.Hub, "other", nothing); !errors.Is(err, herald.ErrRegistryDown) {
		t.Errorf("the Registry is down: %v", err)
	}
	node.Registry.Heal()
	node.AwaitHealth(nil)

	ended, first := make(chan error, 1), make(chan struct{})
	go func() {
		ended <- watchEnd(context.Background(), node.Hub, room, func(herald.Presence) { close(first) })
	}()
	<-first
	ctx, cancelShutdown := context.WithTimeout(t.Context(), time.Second)
	defer cancelShutdown()
	node.Hub.Shutdown(ctx)
	if err := <-ended; !errors.Is(err, herald.ErrClosed) {
		t.Errorf("after Shutdown: %v", err)
	}
	if err := watchEnd(t.Context(), node.Hub, room, nothing); !errors.Is(err, herald.ErrClosed) {
		t.Errorf("a Hub that is shut down: %v", err)
	}
}

// A Registry that cannot be watched is accepted. Only Watch fails.
func TestCannot(t *testing.T) {
	hub, err := herald.New(herald.Config{Bus: herald.NewMemoryNetwork().Bus(), Registry: struct{ herald.Registry }{herald.NewMemoryRegistry()}})
	if err != nil {
		t.Fatal(err)
	}
	defer hub.Shutdown(context.Background())
	err = watchEnd(t.Context(), hub, room, func(herald.Presence) { t.Error("told something") })
	if !errors.Is(err, herald.ErrInvalid) || !strings.Contains(err.Error(), "WatchRegistry") {
		t.Errorf("error %v, want one that names WatchRegistry", err)
	}
}

// Changes that the Bus has lost are found within a lease, or at once if another
// change arrives, with and without a log.
func TestLost(t *testing.T) {
	for name, retention := range map[string]time.Duration{"plain": 0, "kept": time.Minute} {
		t.Run(name, func(t *testing.T) {
			cluster := heraldtest.NewCluster(t, 2, herald.Config{Lease: time.Second, Retention: retention})
			member := func(user string) herald.Identity { return herald.Identity{User: user, Groups: []string{room}} }
			ctx, cancel := context.WithCancel(t.Context())
			told, ended := make(chan herald.Presence), make(chan error, 1)
			go func() {
				ended <- watchEnd(ctx, cluster.Nodes[0].Hub, room, func(p herald.Presence) {
					select {
					case told <- p:
					case <-ctx.Done():
					}
				})
			}()
			if p := <-told; len(p.Joined)+len(p.Left) > 0 {
				t.Fatalf("told %+v of an empty room", p)
			}
			cluster.Nodes[0].Bus.Lose(true)
			cluster.Connect(1, member("anna"))
			if p := <-told; len(p.Joined) != 1 || p.Joined[0].User != "anna" {
				t.Fatalf("told %+v, want anna", p)
			}
			bert := cluster.Connect(1, member("bert"))
			cluster.Nodes[0].Bus.Lose(false)
			carl := cluster.Connect(1, member("carl"))
			there := make(map[string]bool)
			for !there["bert"] || !there["carl"] {
				for _, s := range (<-told).Joined {
					there[s.User] = true
				}
			}
			bert.Close()
			carl.Close()
			for len(there) > 0 {
				for _, s := range (<-told).Left {
					delete(there, s.User)
				}
			}
			cancel()
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Errorf("ended with %v", err)
			}
		})
	}
}
