// Package docs_test tries what the pages of docs say.
package docs_test

import (
	"context"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/test/redistest"
)

// setUser makes the page's Redis user, for a prefix.
func setUser(t *testing.T, admin *redis.Client, prefix string) {
	t.Helper()
	page, err := os.ReadFile("redis.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rules, _ := strings.Cut(string(page), "ACL SETUSER herald ")
	rules, _, _ = strings.Cut(rules, "\n\n")
	rules = strings.ReplaceAll(rules, "herald:", prefix+":")
	args := []any{"ACL", "SETUSER", "herald", "reset"}
	for _, rule := range strings.Fields(regexp.MustCompile(`\\\n`).ReplaceAllString(rules, " ")) {
		args = append(args, rule)
	}
	if err := admin.Do(t.Context(), args...).Err(); err != nil {
		t.Fatal(err)
	}
}

// The page's Redis user for one prefix may touch no key and no channel of a
// service with another, or in another database.
func TestACLHolds(t *testing.T) {
	server := redistest.Start(t)
	admin := server.Client()
	prefixes := []string{"herald", "herald:staging", "herald2", "herald:0", "herald:0:x", "staging:herald"}
	for _, prefix := range prefixes {
		for _, db := range []int{0, 1} {
			rdb := redis.NewClient(&redis.Options{Addr: server.Addr, DB: db})
			defer rdb.Close()
			hub, err := herald.New(herald.Config{Redis: rdb, Prefix: prefix, Name: "n"})
			if err != nil {
				t.Fatalf("prefix %q: %v", prefix, err)
			}
			defer hub.Shutdown(context.Background())
		}
	}
	keys, err := admin.Keys(t.Context(), "*").Result()
	if err != nil {
		t.Fatal(err)
	}
	channels, err := admin.PubSubChannels(t.Context(), "*").Result()
	if err != nil {
		t.Fatal(err)
	}
	may := func(args ...any) bool {
		said, err := admin.Do(t.Context(), append([]any{"ACL", "DRYRUN", "herald"}, args...)...).Text()
		if err != nil {
			t.Fatal(err)
		}
		return said == "OK"
	}
	for _, prefix := range prefixes {
		setUser(t, admin, prefix)
		own := 0
		for _, key := range keys {
			allowed, is := may("GET", key), strings.HasPrefix(key, prefix+":{")
			if allowed != is {
				t.Errorf("the user for %q may touch the key %s: %t", prefix, key, allowed)
			}
		}
		for _, channel := range channels {
			allowed, is := may("SUBSCRIBE", channel), strings.HasPrefix(channel, prefix+":{0}")
			if allowed != is {
				t.Errorf("the user for %q may hear the channel %s: %t", prefix, channel, allowed)
			}
			if is {
				own++
			}
		}
		if own < 3 {
			t.Errorf("%d channels of %q", own, prefix)
		}
	}
}

// The page's Redis user can do all that herald does, sweeping included.
func TestACL(t *testing.T) {
	server := redistest.Start(t)
	setUser(t, server.Client(), "herald")
	ctx := context.Background()
	newHub := func() *herald.Hub {
		rdb := redis.NewClient(&redis.Options{Addr: server.Addr, Username: "herald", Password: "secret"})
		t.Cleanup(func() { rdb.Close() })
		hub, err := herald.New(herald.Config{Redis: rdb, Lease: 300 * time.Millisecond, OfflineDelay: -1})
		if err != nil {
			t.Fatal(err)
		}
		return hub
	}
	hub := newHub()
	defer hub.Shutdown(ctx)
	// What a node that died left behind, to be swept.
	registry, err := herald.NewRedisRegistry(server.Client(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer registry.Close()
	generation, err := registry.KeepAlive(ctx, herald.Node{ID: "dead-1"}, 100*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	entry := herald.Entry{Session: herald.Session{ID: "dead-1.1", User: "42"}, UserTopic: "u42", Topics: []string{"groom"}}
	if _, err := registry.Add(ctx, herald.Lease{Node: "dead-1", Generation: generation}, entry); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		nodes, _, err := registry.Nodes(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if len(nodes) == 1 && nodes[0].ID == hub.NodeID() {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the dead node was not swept: %v", nodes)
		}
	}
	if err := hub.Send(ctx, herald.User("42"), herald.Text("hello")); err != nil {
		t.Error(err)
	}
	if err := hub.Join(ctx, herald.User("42"), "room"); err != nil {
		t.Error(err)
	}
	if err := hub.Health(); err != nil {
		t.Error(err)
	}
}

// With what the page adds for a Retention, its Redis user can do all that a log needs:
// keep, forget, and remove what is too old.
func TestACLOfRetention(t *testing.T) {
	server := redistest.Start(t)
	admin := server.Client()
	setUser(t, admin, "herald")
	page, err := os.ReadFile("redis.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rules, _ := strings.Cut(string(page), "- `Retention` needs ")
	rules, _, _ = strings.Cut(rules, "as well.")
	args := []any{"ACL", "SETUSER", "herald"}
	for _, rule := range regexp.MustCompile(`[~+][^\s`+"`"+`,]+`).FindAllString(rules, -1) {
		args = append(args, rule)
	}
	if err := admin.Do(t.Context(), args...).Err(); err != nil {
		t.Fatal(err)
	}
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr, Username: "herald", Password: "secret"})
	defer rdb.Close()
	hub, err := herald.New(herald.Config{Redis: rdb, Retention: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer hub.Shutdown(context.Background())
	if err := hub.Send(t.Context(), herald.User("7"), herald.Text("the only one")); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if err := hub.Send(t.Context(), herald.User("42"), herald.Text("kept")); err != nil {
			t.Fatal(err)
		}
		if err := hub.Health(); err != nil {
			t.Fatal(err)
		}
		segment, err := admin.Exists(t.Context(), "herald:{log}:s:0").Result()
		if err != nil {
			t.Fatal(err)
		}
		_, err = admin.ZScore(t.Context(), "herald:{log}:t", "u7").Result()
		if segment == 0 && err == redis.Nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("what is too old was not removed")
		}
	}
	if err := hub.Forget(t.Context(), herald.User("42")); err != nil {
		t.Error(err)
	}
	if _, err := hub.Position(t.Context()); err != nil {
		t.Error(err)
	}
}
