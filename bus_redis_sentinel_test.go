package herald_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/redistest"
	"github.com/heraldgo/herald/internal/servertest"
)

// startSentinel starts a Sentinel that alone decides about the master.
func startSentinel(t *testing.T, master string) (addr string) {
	host, port, _ := net.SplitHostPort(master)
	addr = servertest.FreeAddr(t)
	_, own, _ := net.SplitHostPort(addr)
	config := filepath.Join(t.TempDir(), "sentinel.conf")
	text := fmt.Sprintf("port %s\nbind 127.0.0.1\nsentinel monitor main %s %s 1\nsentinel down-after-milliseconds main 500\n"+
		"sentinel failover-timeout main 3000\n", own, host, port)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("redis-server", config, "--sentinel")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	client := redis.NewSentinelClient(&redis.Options{Addr: addr, DialerRetries: 100})
	defer client.Close()
	eventually(t, "Sentinel to know the replica", func() bool {
		replicas, err := client.Replicas(t.Context(), "main").Result()
		return err == nil && len(replicas) == 1 && replicas[0]["master-link-status"] == "ok"
	})
	return addr
}

func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * patience); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// After a failover both links lead to the new master, though the old one
// lives on as a replica.
func TestRedisBusFailover(t *testing.T) {
	master := redistest.Start(t)
	host, port, _ := net.SplitHostPort(master.Addr)
	replica := redistest.Start(t, "--replicaof", host+" "+port)
	sentinel := startSentinel(t, master.Addr)
	open := func() *herald.RedisBus {
		client := redis.NewFailoverClient(&redis.FailoverOptions{MasterName: "main", SentinelAddrs: []string{sentinel}})
		t.Cleanup(func() { client.Close() })
		bus, err := herald.NewRedisBus(client, quick)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { bus.Close() })
		return bus
	}
	a, b := open(), open()
	if err := b.Subscribe(t.Context(), "topic"); err != nil {
		t.Fatal(err)
	}
	client := redis.NewSentinelClient(&redis.Options{Addr: sentinel})
	defer client.Close()
	if err := client.Failover(t.Context(), "main").Err(); err != nil {
		t.Fatal(err)
	}
	promoted, demoted := replica.Client(), master.Client()
	eventually(t, "the replica to be master, and the master replica", func() bool {
		return promoted.Do(t.Context(), "ROLE").Val().([]any)[0] == "master" && demoted.Do(t.Context(), "ROLE").Val().([]any)[0] == "slave"
	})
	eventually(t, "good health on the new master", func() bool {
		return promoted.PubSubNumSub(t.Context(), "herald:0:topic").Val()["herald:0:topic"] == 1 && a.Health() == nil && b.Health() == nil
	})
	if err := a.Publish(t.Context(), herald.Packet{Topic: "topic", Data: []byte("heard")}); err != nil {
		t.Fatal(err)
	}
	gaps := 0
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		e, err := b.Receive(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if e.Kind == herald.EventDown {
			gaps++
		}
		if e.Kind == herald.EventPacket && string(e.Packet.Data) == "heard" {
			break
		}
	}
	if gaps == 0 {
		t.Error("no gap tells of the failover")
	}
}
