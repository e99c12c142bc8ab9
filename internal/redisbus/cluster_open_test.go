package redisbus_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/test/netproxy"
	"github.com/heraldgo/herald/internal/test/redistest"
)

// heard publishes a packet and waits until it is received.
func heard(t testing.TB, from, to *herald.RedisBus, topic string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err := errors.Join(to.Subscribe(ctx, topic), from.Publish(ctx, herald.Packet{Topic: topic, Data: []byte(topic)}))
	if err != nil {
		t.Fatal(err)
	}
	if e, err := to.Receive(ctx); err != nil || string(e.Packet.Data) != topic {
		t.Fatalf("got %+v, %v", e, err)
	}
}

// Nodes that would not have the same partitions are refused by New. If there is a
// choice, the first node decides.
func TestRedisBusClusterAgreement(t *testing.T) {
	cluster := redistest.StartCluster(t, 3, 0)
	client := cluster.Client()
	ctx := t.Context()
	sharded := func() int {
		n := 0
		for _, node := range cluster.Nodes {
			n += len(node.Admin().PubSubShardChannels(ctx, "*").Val())
		}
		return n
	}
	a := openCluster(t, client, "a")
	if got := client.Get(ctx, "a:{partitions}").Val(); got != "16" || sharded() != 16 {
		t.Errorf("a Bus on Redis 7 has %q partitions, and %d channels", got, sharded())
	}
	heard(t, a, openCluster(t, client, "a"), "topic")

	if err := client.Set(ctx, "b:{partitions}", 1, 0).Err(); err != nil {
		t.Fatal(err)
	}
	before := sharded()
	heard(t, openCluster(t, client, "b"), openCluster(t, client, "b"), "topic")
	if got := sharded(); got != before {
		t.Errorf("where nodes have agreed on classic Pub/Sub there are %d sharded channels, want %d", got, before)
	}

	if err := client.Set(ctx, "c:{partitions}", 32, 0).Err(); err != nil {
		t.Fatal(err)
	}
	_, err := herald.NewRedisBus(client, &herald.RedisOptions{Prefix: "c"})
	if !errors.Is(err, herald.ErrInvalid) || !strings.Contains(err.Error(), "32") || !strings.Contains(err.Error(), "16") {
		t.Errorf("another number of partitions: %v", err)
	}

	old := redistest.StartCluster(t, 3, 0, classic...)
	client = old.Client()
	heard(t, openCluster(t, client, "a"), openCluster(t, client, "a"), "topic")
	if got := client.Get(ctx, "a:{partitions}").Val(); got != "1" {
		t.Errorf("a Bus without SPUBLISH has %q partitions", got)
	}
	if err := client.Set(ctx, "b:{partitions}", 16, 0).Err(); err != nil {
		t.Fatal(err)
	}
	if _, err := herald.NewRedisBus(client, &herald.RedisOptions{Prefix: "b"}); err == nil || errors.Is(err, herald.ErrBusDown) {
		t.Errorf("sharded Pub/Sub agreed on and not there: %v", err)
	}
}

// If an ACL on a Cluster denies a command, the error names it, and what would allow
// it.
func TestNewRedisBusClusterACL(t *testing.T) {
	for way, needs := range map[string][]string{
		"sharded": {"+spublish", "+ssubscribe", "+sunsubscribe", "+cluster|info", "+cluster|slots", "+get", "+set", "&herald:{*", "~herald:{*"},
		"classic": {"+publish", "+subscribe", "+unsubscribe", "+exists", "+cluster|info", "+cluster|slots", "+get", "+set", "&herald:{*", "~herald:{*"},
	} {
		t.Run(way, func(t *testing.T) {
			var args []string
			if way == "classic" {
				args = classic
			}
			cluster := redistest.StartCluster(t, 3, 0, args...)
			open := func(rules []string) error {
				args := []any{"ACL", "SETUSER", "app", "reset", "on", ">secret"}
				for _, rule := range rules {
					args = append(args, rule)
				}
				for _, n := range cluster.Nodes {
					if err := n.Admin().Do(t.Context(), args...).Err(); err != nil {
						t.Fatal(err)
					}
				}
				client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: cluster.Addrs(), Username: "app", Password: "secret"})
				defer client.Close()
				bus, err := herald.NewRedisBus(client, nil)
				if err != nil {
					return err
				}
				defer bus.Close()
				return errors.Join(bus.Subscribe(t.Context(), "topic"), bus.Publish(t.Context(), herald.Packet{Topic: "topic"}))
			}
			if err := open(needs); err != nil {
				t.Fatalf("all that is needed: %v", err)
			}
			for i, denied := range needs {
				err := open(slices.Delete(slices.Clone(needs), i, i+1))
				if err == nil || errors.Is(err, herald.ErrBusDown) || !strings.Contains(err.Error(), "ACL SETUSER") {
					t.Errorf("without %s: %v", denied, err)
				} else if i == 0 {
					t.Log(err)
				}
			}
			if err := open(needs); err != nil {
				t.Errorf("all that is asked for: %v", err)
			}
		})
	}
}

// A ClusterClient need not lead to a Cluster: one for Sentinels does not.
func TestRedisBusClusterClientOfOneServer(t *testing.T) {
	server := redistest.Start(t)
	client := redis.NewClusterClient(&redis.ClusterOptions{ClusterSlots: func(context.Context) ([]redis.ClusterSlot, error) {
		return []redis.ClusterSlot{{Start: 0, End: 16383, Nodes: []redis.ClusterNode{{Addr: server.Addr}}}}, nil
	}})
	defer client.Close()
	bus := openCluster(t, client, "")
	heard(t, openRedis(t, server.Addr, 0, nil), bus, "topic")
	heard(t, bus, openRedis(t, server.Addr, 0, nil), "topic")
}

// If the nodes call themselves by addresses that lead nowhere, the links dial as
// the user's client does.
func TestRedisBusClusterMappedAddresses(t *testing.T) {
	cluster := redistest.StartCluster(t, 3, 0)
	proxies := map[string]*netproxy.Proxy{}
	for _, n := range cluster.Nodes {
		proxies[n.Addr] = netproxy.Start(t, n.Addr)
	}
	var mu sync.Mutex
	var dialed []string
	client := redis.NewClusterClient(&redis.ClusterOptions{
		Addrs: cluster.Addrs(),
		NewClient: func(o *redis.Options) *redis.Client {
			if p := proxies[o.Addr]; p != nil {
				o.Addr = p.Addr
			}
			return redis.NewClient(o)
		},
		Dialer: func(ctx context.Context, network, addr string) (net.Conn, error) {
			mu.Lock()
			dialed = append(dialed, addr)
			mu.Unlock()
			var d net.Dialer
			return d.DialContext(ctx, network, addr)
		},
	})
	defer client.Close()
	bus := openCluster(t, client, "")
	slot := cluster.Slot("{66}")
	cluster.Migrate(slot, other(cluster, cluster.MasterOf(slot)))
	eventually(t, "health after the migration", func() bool { return bus.Health() == nil })
	for i := range 64 {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if err := bus.Publish(ctx, herald.Packet{Topic: fmt.Sprint(i)}); err != nil {
			t.Error(err)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	for _, addr := range dialed {
		if proxies[addr] != nil {
			t.Errorf("%s was dialed, past its proxy", addr)
		}
	}
	if len(dialed) < 6 { // one trunk for each master and direction
		t.Errorf("the user's Dialer dialed %d connections", len(dialed))
	}
}

// Packets of several partitions are published together. If one partition does not
// take its packets, only the result of that call is unknown.
func TestRedisBusClusterPublishInParts(t *testing.T) {
	cluster := redistest.StartCluster(t, 3, 0)
	client := cluster.Client()
	a, b := openCluster(t, client, ""), openCluster(t, client, "")
	var packets []herald.Packet
	for i := range 200 {
		topic := fmt.Sprint("topic ", i%50)
		packets = append(packets, herald.Packet{Topic: topic, Data: fmt.Append(nil, i)})
		if err := b.Subscribe(t.Context(), topic); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Publish(t.Context(), packets...); err != nil {
		t.Fatal(err)
	}
	last := map[string]int{}
	for range packets {
		e, err := b.Receive(t.Context())
		if err != nil || e.Kind != herald.EventPacket {
			t.Fatalf("got %+v, %v", e, err)
		}
		var n int
		fmt.Sscan(string(e.Packet.Data), &n)
		if n < last[e.Packet.Topic] {
			t.Errorf("packet %d of %q after %d", n, e.Packet.Topic, last[e.Packet.Topic])
		}
		last[e.Packet.Topic] = n
	}
	cluster.Nodes[0].Kill()
	eventually(t, "a call that is taken in part", func() bool {
		err := a.Publish(t.Context(), packets...)
		return errors.Is(err, herald.ErrUnknown) && errors.Is(err, herald.ErrBusDown)
	})
	cluster.Nodes[1].Kill()
	cluster.Nodes[2].Kill()
	eventually(t, "a call that nobody takes", func() bool {
		err := a.Publish(t.Context(), packets...)
		return errors.Is(err, herald.ErrBusDown) && !errors.Is(err, herald.ErrUnknown)
	})
}

// A Cluster that refuses while a part of it is down makes calls fail at once, and
// they succeed when it is well again.
func TestRedisBusClusterRefuses(t *testing.T) {
	cluster := redistest.StartCluster(t, 3, 0, "--cluster-allow-pubsubshard-when-down", "no")
	client := cluster.Client()
	a, b := openCluster(t, client, ""), openCluster(t, client, "")
	heard(t, a, b, "topic")
	down := cluster.Nodes[2]
	down.Kill()
	eventually(t, "CLUSTERDOWN", func() bool {
		err := a.Publish(t.Context(), herald.Packet{Topic: "topic"})
		if errors.Is(err, herald.ErrUnknown) {
			t.Errorf("Publish to a Cluster that refuses: %v", err)
		}
		return errors.Is(err, herald.ErrBusDown) && strings.Contains(err.Error(), "CLUSTERDOWN")
	})
	down.Restart()
	eventually(t, "health", func() bool { return a.Health() == nil && b.Health() == nil })
	if err := a.Publish(t.Context(), herald.Packet{Topic: "topic", Data: []byte("end")}); err != nil {
		t.Error(err)
	}
	gaps := 0
	for {
		e, err := b.Receive(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if e.Kind == herald.EventDown {
			gaps++
		}
		if string(e.Packet.Data) == "end" {
			break
		}
	}
	if gaps == 0 {
		t.Error("no gap tells of it")
	}
}

// A Hub on a Cluster needs nothing but the client.
func TestHubOnCluster(t *testing.T) {
	cluster := redistest.StartCluster(t, 3, 0)
	for range 2 {
		hub, err := herald.New(herald.Config{Redis: cluster.Client()})
		if err != nil {
			t.Fatal(err)
		}
		defer hub.Shutdown(context.Background())
		if err := hub.Join(t.Context(), herald.User("42"), "room"); err != nil { // every node answers
			t.Error(err)
		}
	}
}
