package heraldapi_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/heraldapi"
	"github.com/heraldgo/herald/heraldtest"
)

// TestOnce sends the same request many times at once, to two nodes.
func TestOnce(t *testing.T) {
	_, rdb := newRedis(t)
	cluster := heraldtest.NewCluster(t, 2, herald.Config{})
	anna := cluster.Connect(1, herald.Identity{User: "anna"})
	var asks []func(string, string, string, ...string) (int, map[string]any)
	for _, node := range cluster.Nodes {
		asks = append(asks, serve(t, heraldapi.Config{Hub: node.Hub, Redis: rdb}))
	}
	for i := range 20 {
		body := fmt.Sprintf(`{"to": {"users": ["anna"]}, "text": "message %d"}`, i)
		var wg sync.WaitGroup
		var answered atomic.Int64
		for j := range 8 {
			wg.Go(func() {
				switch status, answer := asks[j%2]("POST", "/send", body, "Idempotency-Key", fmt.Sprint(i)); {
				case status == 200 && answer["sent"] == 1.0:
					answered.Add(1)
				case status != 409 || code(answer) != "in_progress":
					t.Errorf("%d %v, want 200 or 409", status, answer)
				}
			})
		}
		wg.Wait()
		if answered.Load() == 0 {
			t.Errorf("message %d: nobody was told that it was sent", i)
		}
		if status, answer := asks[i%2]("POST", "/send", body, "Idempotency-Key", fmt.Sprint(i)); status != 200 || answer["sent"] != 1.0 {
			t.Errorf("afterwards: %d %v, want the outcome", status, answer)
		}
		anna.Expect(fmt.Sprintf("message %d", i))
	}
	anna.ExpectNothing()

	if status, answer := asks[0]("POST", "/send", `{"to": {"users": ["anna"]}, "text": "else"}`, "Idempotency-Key", "7"); status != 422 || code(answer) != "key_reused" {
		t.Errorf("another request with the key: %d %v, want 422 key_reused", status, answer)
	}
	for key, rule := range map[string]string{strings.Repeat("k", 256): "256 bytes: must be at most 255", "": "must not be empty", " ": "must not be empty"} {
		status, answer := asks[0]("POST", "/send", `{"to": {"users": ["anna"]}, "text": "unprotected"}`, "Idempotency-Key", key)
		if text := fmt.Sprint(answer); status != 400 || !strings.Contains(text, "field:Idempotency-Key") || !strings.Contains(text, rule) {
			t.Errorf("the key %q: %d %v, want 400 and %q", key, status, answer, rule)
		}
	}
	anna.ExpectNothing()
}

// TestOutcomes checks which outcomes are kept, and for how long.
func TestOutcomes(t *testing.T) {
	server, rdb := newRedis(t)
	bus := &unsureBus{MemoryBus: herald.NewMemoryNetwork().Bus()}
	hub, err := herald.New(herald.Config{Bus: bus, Registry: herald.NewMemoryRegistry(), Authenticate: herald.Anonymous})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { hub.Shutdown(context.Background()) })
	ask := serve(t, heraldapi.Config{Hub: hub, Redis: rdb})
	send := func(key string) (int, string) {
		t.Helper()
		status, answer := ask("POST", "/send", `{"to": {"users": ["anna"]}, "text": "hello"}`, "Idempotency-Key", key)
		return status, code(answer)
	}
	expect := func(key string, status int, code string, published int64) {
		t.Helper()
		if gotStatus, gotCode := send(key); gotStatus != status || gotCode != code {
			t.Errorf("key %s: %d %q, want %d %q", key, gotStatus, gotCode, status, code)
		}
		if got := bus.published.Swap(0); got != published {
			t.Errorf("key %s: published %d times, want %d", key, got, published)
		}
	}
	bus.err.Store(&herald.ErrUnknown)
	expect("unknown", 504, "unknown", 1)
	expect("unknown", 504, "unknown", 0)
	bus.err.Store(nil)
	expect("unknown", 504, "unknown", 0)
	server.FastForward(5*time.Minute + time.Second)
	expect("unknown", 200, "", 1)

	bus.err.Store(&herald.ErrBusDown)
	expect("down", 503, "bus_down", 1)
	bus.err.Store(nil)
	expect("down", 200, "", 1) // nothing was done before
	expect("down", 200, "", 0)

	server.SetError("READONLY You can't write against a read only replica.")
	expect("readonly", 503, "redis_down", 0)
	server.SetError("")
	expect("readonly", 200, "", 1)
}

// TestAbandonedClaim checks what is told of a request whose node has died.
func TestAbandonedClaim(t *testing.T) {
	server, rdb := newRedis(t)
	hub := heraldtest.NewCluster(t, 1, herald.Config{}).Nodes[0].Hub
	ask := serve(t, heraldapi.Config{Hub: hub, Redis: rdb})
	send := func() (int, string) {
		status, answer := ask("POST", "/send", `{"to": {"users": ["anna"]}, "text": "hello"}`, "Idempotency-Key", "k")
		return status, code(answer)
	}
	send()
	name := server.Keys()[0]
	value, err := server.Get(name)
	if err != nil {
		t.Fatal(err)
	}
	claim, _, _ := strings.Cut(value, `,"answer"`) // as it was before the outcome
	server.Set(name, claim+"}")
	server.SetTTL(name, 5*time.Minute)
	if status, code := send(); status != 409 || code != "in_progress" {
		t.Errorf("at once: %d %q, want 409 in_progress", status, code)
	}
	server.FastForward(2 * time.Minute)
	if status, code := send(); status != 504 || code != "unknown" {
		t.Errorf("two minutes later: %d %q, want 504 unknown", status, code)
	}
}

// TestCallersKeys checks that callers do not share idempotency keys.
func TestCallersKeys(t *testing.T) {
	_, rdb := newRedis(t)
	cluster := heraldtest.NewCluster(t, 1, herald.Config{})
	anna := cluster.Connect(0, herald.Identity{User: "anna"})
	keys := []string{key, key + " and another"}
	ask := serve(t, heraldapi.Config{Hub: cluster.Nodes[0].Hub, Redis: rdb, Keys: keys})
	for _, k := range keys {
		ask("POST", "/send", `{"to": {"users": ["anna"]}, "text": "`+k+`"}`, "Idempotency-Key", "k", "Authorization", "Bearer "+k)
		anna.Expect(k)
	}
}

// An unsureBus returns an error from Publish if it is told to.
type unsureBus struct {
	*herald.MemoryBus
	err       atomic.Pointer[error]
	published atomic.Int64
}

func (b *unsureBus) Publish(ctx context.Context, packets ...herald.Packet) error {
	for _, p := range packets {
		if strings.Contains(string(p.Data), "hello") {
			b.published.Add(1)
			if err := b.err.Load(); err != nil {
				return *err
			}
		}
	}
	return b.MemoryBus.Publish(ctx, packets...)
}
