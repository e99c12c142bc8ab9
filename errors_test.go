package herald_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/heraldtest"
	"github.com/heraldgo/herald/internal/test/redistest"
)

// saidOnce checks that an error is target, or any if that is nil, and that its text
// has no part twice.
func saidOnce(t *testing.T, what string, err, target error) {
	t.Helper()
	if err == nil || target != nil && !errors.Is(err, target) {
		t.Errorf("%s: %v; want %v in its chain", what, err, target)
		return
	}
	t.Logf("%s: %v", what, err)
	seen := make(map[string]bool)
	for reason := range strings.SplitSeq(strings.ReplaceAll(err.Error(), "\n", "; "), "; ") {
		for part := range strings.SplitSeq(reason, ": ") {
			if seen[part] {
				t.Errorf("%s says %q twice: %v", what, part, err)
			}
			seen[part] = true
		}
	}
}

func send(ctx context.Context, hub *herald.Hub) error {
	return hub.Send(ctx, herald.User("42"), herald.Text("x"))
}

func join(ctx context.Context, hub *herald.Hub) error {
	return hub.Join(ctx, herald.User("42"), "room")
}

// askOnce checks what a Hub answers whose Registry is down.
func askOnce(t *testing.T, hub *herald.Hub, target error) {
	t.Helper()
	saidOnce(t, "Join", join(t.Context(), hub), target)
	_, err := hub.Online(t.Context(), "42")
	saidOnce(t, "Online", err, target)
	_, err = hub.Sessions(t.Context(), herald.User("42"))
	saidOnce(t, "Sessions", err, target)
	_, err = hub.Count(t.Context())
	saidOnce(t, "Count", err, target)
}

func TestErrorsOfNew(t *testing.T) {
	server := redistest.Start(t)
	if err := server.Client().ConfigSet(t.Context(), "requirepass", "secret").Err(); err != nil {
		t.Fatal(err)
	}
	for name, options := range map[string]*redis.Options{
		"wrong address": {Addr: "127.0.0.1:1", MaxRetries: -1, DialerRetries: 1},
		"no login":      {Addr: server.Addr},
		"refused login": {Addr: server.Addr, Password: "wrong"},
	} {
		t.Run(name, func(t *testing.T) {
			rdb := redis.NewClient(options)
			defer rdb.Close()
			_, err := herald.New(herald.Config{Redis: rdb})
			saidOnce(t, "New", err, herald.ErrRegistryDown)
			if err != nil && !strings.Contains(err.Error(), "Config.Redis: ") {
				t.Errorf("New does not name Config.Redis: %v", err)
			}
		})
	}
}

func TestErrorsOfRedisThatHangs(t *testing.T) {
	server := redistest.Start(t)
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr})
	defer rdb.Close()
	hub, err := herald.New(herald.Config{
		Redis: rdb, Lease: 3 * time.Second, ProbeInterval: time.Second / 10, ProbeTimeout: time.Second, SendTimeout: time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	server.Pause()
	deadline := time.Now().Add(30 * time.Second)
	for !errors.Is(hub.Health(), herald.ErrRegistryDown) || !errors.Is(hub.Health(), herald.ErrBusDown) {
		if time.Now().After(deadline) {
			t.Fatalf("Health: %v", hub.Health())
		}
		time.Sleep(10 * time.Millisecond)
	}
	saidOnce(t, "Health", hub.Health(), herald.ErrBusDown)
	saidOnce(t, "Send", send(t.Context(), hub), herald.ErrBusDown)
	askOnce(t, hub, nil)
	server.Continue()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	hub.Shutdown(ctx)
}

func TestErrorsInMemory(t *testing.T) {
	node := heraldtest.NewCluster(t, 1, herald.Config{Lease: 3 * time.Second}).Nodes[0]
	node.Bus.Cut()
	node.AwaitHealth(herald.ErrBusDown)
	saidOnce(t, "Health", node.Hub.Health(), herald.ErrBusDown)
	saidOnce(t, "Send", send(t.Context(), node.Hub), herald.ErrBusDown)
	saidOnce(t, "Join", join(t.Context(), node.Hub), herald.ErrBusDown)
	node.Registry.Cut()
	node.AwaitHealth(herald.ErrRegistryDown)
	saidOnce(t, "Health", node.Hub.Health(), herald.ErrBusDown)
	askOnce(t, node.Hub, herald.ErrRegistryDown)
}
