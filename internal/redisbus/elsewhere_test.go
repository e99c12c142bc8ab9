package redisbus

import (
	"slices"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald/internal/redisconn"
	"github.com/heraldgo/herald/internal/test/redistest"
)

// Nodes that follow a topic under another prefix or in another database are found,
// on one Redis and on a Cluster. Characters of a pattern in a name stand for
// themselves.
func TestElsewhere(t *testing.T) {
	const topic = `ua*[b]\?`
	open := func(rdb redis.UniversalClient, prefix string, topics ...string) *Bus {
		t.Cleanup(func() { rdb.Close() })
		b, err := New(rdb, redisconn.Options{Prefix: prefix})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(b.Close)
		if len(topics) > 0 {
			if err := b.Subscribe(t.Context(), topics); err != nil {
				t.Fatal(err)
			}
		}
		return b
	}
	expect := func(b *Bus, rdb redis.UniversalClient, want ...string) {
		t.Helper()
		if got, err := b.Elsewhere(t.Context(), rdb, topic); err != nil || !slices.Equal(got, want) {
			t.Errorf("found %q, %v, want %q", got, err, want)
		}
	}
	server := redistest.Start(t)
	database := func(n int) *redis.Client { return redis.NewClient(&redis.Options{Addr: server.Addr, DB: n}) }
	own := database(0)
	b := open(own, "app", topic)
	open(database(0), "app", topic) // one more node
	expect(b, own)
	open(database(0), "no", `uaxyz[b]\?`, `ua*b\?`, "x:"+topic)
	expect(b, own)
	open(database(1), "app", topic)
	open(database(0), "shop", topic)
	open(database(2), "shop", topic)
	expect(b, own, "Prefix shop", "database 1")

	cluster := redistest.StartCluster(t, 3, 0, redistest.NeverFailed...)
	all := cluster.Client()
	b = open(all, "app", topic)
	expect(b, all)
	open(cluster.Client(), "shop", topic)
	expect(b, all, "Prefix shop")
}
