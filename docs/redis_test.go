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
