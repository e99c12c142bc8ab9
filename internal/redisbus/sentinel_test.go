package redisbus_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/heraldtest"
	"github.com/heraldgo/herald/internal/test/bustest"
	"github.com/heraldgo/herald/internal/test/redistest"
)

func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// openSentinel opens a RedisBus that follows the master of set.
func openSentinel(t testing.TB, set *redistest.Sentinels, options *herald.RedisOptions) *herald.RedisBus {
	t.Helper()
	bus, err := herald.NewRedisBus(set.Client(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { bus.Close() })
	return bus
}

// One of the interruptions is a failover. Its links break when the Sentinels make
// the old master a replica. The others kill the links.
func TestRedisBusOnSentinel(t *testing.T) {
	set := redistest.StartSentinels(t)
	failover := sync.OnceFunc(func() {
		set.Failover()
		set.AwaitOneMaster()
	})
	heraldtest.TestBus(t, func(t testing.TB) heraldtest.BusNetwork {
		return heraldtest.BusNetwork{
			Open:  func() herald.Bus { return openSentinel(t, set, nil) },
			Other: func() herald.Bus { return openSentinel(t, set, &herald.RedisOptions{Prefix: "other"}) },
			Interrupt: func() {
				failover()
				killClients(t, set.Master().Addr, "normal", "pubsub")
			},
		}
	})
}

func newSentinelRig(t *testing.T, set *redistest.Sentinels, options *herald.RedisOptions) *rig {
	r := &rig{T: t, from: openSentinel(t, set, options), to: openSentinel(t, set, options)}
	r.Stream = bustest.Start(t, r.from, r.to, bustest.Options{})
	return r
}

// However the master changes, both links lead to the new one in the end, and all
// losses lie in gaps.
func TestRedisBusFailover(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]func(r *rig, set *redistest.Sentinels){
		"master killed": func(r *rig, set *redistest.Sentinels) {
			old := set.Master()
			old.Kill()
			set.AwaitFailover(old)
		},
		"master killed, comes back": func(r *rig, set *redistest.Sentinels) {
			old := set.Master()
			old.Kill()
			set.AwaitFailover(old)
			old.Restart()
			set.AwaitOneMaster()
		},
		"master hangs": func(r *rig, set *redistest.Sentinels) {
			old := set.Master()
			old.Pause()
			set.AwaitFailover(old)
			old.Continue()
			set.AwaitOneMaster()
		},
		"asked for": func(r *rig, set *redistest.Sentinels) {
			set.Failover()
			set.AwaitOneMaster()
		},
		"asked for, the publisher moves first": func(r *rig, set *redistest.Sentinels) {
			set.Failover()
			r.from.Reset()
			set.AwaitOneMaster()
		},
		"asked for, the subscriber moves first": func(r *rig, set *redistest.Sentinels) {
			set.Failover()
			r.to.Reset()
			set.AwaitOneMaster()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			set := redistest.StartSentinels(t)
			r := newSentinelRig(t, set, quick)
			r.AwaitPackets(100)
			fault(r, set)
			r.AwaitGap()
			r.Check()
			on := set.Master().Client()
			if n := on.PubSubNumSub(t.Context(), "herald:{0}:topic").Val()["herald:{0}:topic"]; n != 1 {
				t.Errorf("the new master counts %d subscribers", n)
			}
		})
	}
}

// Without Sentinels the last master may have been replaced, so nothing is reported
// as well. If they come back and still name it, there was no gap.
func TestRedisWithoutSentinels(t *testing.T) {
	t.Parallel()
	set := redistest.StartSentinels(t)
	r := newSentinelRig(t, set, &herald.RedisOptions{ProbeInterval: time.Second / 10})
	registry, add := listed(t, set.Client(), nil)
	for _, s := range set.Sentinels {
		s.Kill()
	}
	packet := herald.Packet{Topic: "topic", Data: []byte("-1")}
	eventually(t, "doubts", func() bool {
		_, _, err := registry.Nodes(t.Context())
		return r.from.Health() != nil && r.to.Health() != nil && errors.Is(err, herald.ErrRegistryDown)
	})
	if err := r.from.Publish(t.Context(), packet); !errors.Is(err, herald.ErrUnknown) || !strings.Contains(err.Error(), "no majority of the Sentinels") {
		t.Errorf("Publish without Sentinels: %v, want ErrUnknown", err)
	}
	if err := add(); !errors.Is(err, herald.ErrRegistryDown) {
		t.Errorf("Add without Sentinels: %v, want ErrRegistryDown", err)
	}
	for _, s := range set.Sentinels {
		s.Restart()
	}
	eventually(t, "trust", func() bool {
		_, _, err := registry.Nodes(t.Context())
		return errors.Join(r.from.Health(), r.to.Health(), err) == nil
	})
	if gaps := r.Gaps(); len(gaps) > 0 {
		t.Errorf("gaps without Sentinels: %v", gaps)
	}
	set.Failover()
	set.AwaitOneMaster()
	r.AwaitGap()
	r.Check()
	eventually(t, "the Registry on the new master", func() bool { return add() == nil })
}

// If the Sentinel that go-redis asks hangs, that does no harm, because the other
// two are a majority.
func TestRedisBusSentinelHangs(t *testing.T) {
	t.Parallel()
	set := redistest.StartSentinels(t)
	client := redis.NewFailoverClient(&redis.FailoverOptions{MasterName: redistest.MasterName, SentinelAddrs: set.Addrs()[:1]})
	t.Cleanup(func() { client.Close() })
	bus, err := herald.NewRedisBus(client, &herald.RedisOptions{ProbeInterval: time.Second / 10})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { bus.Close() })
	unproved := openSentinel(t, set, &herald.RedisOptions{ProbeInterval: -1})
	s := bustest.Start(t, bus, bus, bustest.Options{})
	heard := set.Master().Client().Subscribe(t.Context(), "__sentinel__:hello")
	defer heard.Close()
	for range 6 { // most likely from all three Sentinels
		<-heard.Channel()
	}
	set.Sentinels[0].Pause()
	defer set.Sentinels[0].Continue()
	for range 10 { // from the other two, in ten seconds
		<-heard.Channel()
	}
	if r := s.Check(); r.Failed+len(r.Gaps) > 0 {
		t.Errorf("%d failed, gaps %v", r.Failed, r.Gaps)
	}
	if err := unproved.Health(); err != nil {
		t.Errorf("a Bus that does not prove its links: %v", err)
	}
}

// A user that may not subscribe to the Sentinels' messages is told so by New.
func TestNewRedisBusOnSentinelACL(t *testing.T) {
	set := redistest.StartSentinels(t)
	open := func(rules ...any) error {
		args := append([]any{"ACL", "SETUSER", "app", "reset", "on", ">secret", "+publish", "+subscribe", "+unsubscribe", "&herald:*"}, rules...)
		if err := set.Master().Client().Do(t.Context(), args...).Err(); err != nil {
			t.Fatal(err)
		}
		client := redis.NewFailoverClient(&redis.FailoverOptions{
			MasterName: redistest.MasterName, SentinelAddrs: set.Addrs(), Username: "app", Password: "secret",
		})
		defer client.Close()
		bus, err := herald.NewRedisBus(client, nil)
		if err == nil {
			bus.Close()
		}
		return err
	}
	if err := open(); err == nil || errors.Is(err, herald.ErrBusDown) || !strings.Contains(err.Error(), "&__sentinel__:hello") {
		t.Errorf("got %v, want what to allow", err)
	}
	if err := open("&__sentinel__:hello"); err != nil {
		t.Errorf("all that the error asks for: %v", err)
	}
}

// listed opens a Registry with a lease of a node and an entry. add adds one more
// entry.
func listed(t *testing.T, client *redis.Client, options *herald.RedisOptions) (registry *herald.RedisRegistry, add func() error) {
	t.Helper()
	registry, err := herald.NewRedisRegistry(client, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { registry.Close() })
	generation, err := registry.KeepAlive(t.Context(), herald.Node{ID: "n"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	entries := 0
	add = func() error {
		entries++
		user := fmt.Sprint(entries)
		_, err := registry.Add(t.Context(), herald.Lease{Node: "n", Generation: generation}, herald.Entry{
			Session: herald.Session{ID: "n." + user, User: user}, UserTopic: "u" + user, Topics: []string{"gall"},
		})
		return err
	}
	if err := add(); err != nil {
		t.Fatal(err)
	}
	return registry, add
}
