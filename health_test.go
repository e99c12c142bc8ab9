package herald

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heraldgo/herald/internal/redisconn"
	"github.com/heraldgo/herald/internal/redisregistry"
	"github.com/heraldgo/herald/internal/test/redistest"
)

// flush removes everything from m, as FLUSHALL does.
func flush(m *MemoryRegistry) {
	s := m.store
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.leases)
	clear(s.dying)
	clear(s.topics)
	clear(s.gone)
}

// forgetLease removes the lease of a node, and nothing else.
func forgetLease(m *MemoryRegistry, node string) {
	s := m.store
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.leases, node)
}

// An asker asks one node about the only client, which is connected to the other.
type asker struct {
	asked, other *rig
	conn         *Conn
	n            int
}

// lies asks every question once. It returns the questions whose answers were
// untrue, and the number of errors.
func (a *asker) lies(t *testing.T) (lies []string, errs int) {
	t.Helper()
	lie := func(err error, what string, true bool) {
		switch {
		case err == nil && !true:
			lies = append(lies, what)
		case err != nil:
			errs++
			var partial *PartialError
			if !errors.Is(err, ErrRegistryDown) && !errors.As(err, &partial) {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
	ctx, h := t.Context(), a.asked
	online, err := h.Online(ctx, "u")
	lie(err, "Online", online["u"])
	sessions, err := h.Sessions(ctx, User("u"))
	lie(err, "Sessions", len(sessions) == 1)
	count, err := h.Count(ctx)
	lie(err, "Count", count == 1)
	nodes, err := h.Nodes(ctx)
	lie(err, "Nodes", len(nodes) == 2)
	a.n++
	group := fmt.Sprint("group", a.n)
	err = h.Join(ctx, User("u"), group)
	lie(err, "Join", slices.Contains(a.other.index.groupsOf(a.conn), group))
	err = h.Leave(ctx, User("u"), group)
	lie(err, "Leave", !slices.Contains(a.other.index.groupsOf(a.conn), group))
	return lies, errs
}

// newAsker starts two nodes. The Registry of both can lose its data.
func newAsker(t *testing.T, config Config) (*asker, [2]*MemoryRegistry) {
	t.Helper()
	network, registry := NewMemoryNetwork(), NewMemoryRegistry()
	var rigs [2]*rig
	var registries [2]*MemoryRegistry
	for i := range rigs {
		registries[i] = registry.Handle()
		config.Name, config.Bus, config.Registry = fmt.Sprint("node", i), network.Bus(), registries[i]
		rigs[i] = newPipeRig(t, config)
	}
	ws := rigs[1].pipe("user=u&groups=g")
	go io.Copy(io.Discard, ws)
	a := &asker{asked: rigs[0], other: rigs[1], conn: rigs[1].only()}
	time.Sleep(2 * rigs[0].config.Lease / 3) // each knows the other, and how many clients it has
	return a, registries
}

// Whatever the Registry loses, an answer without an error is true. Two seconds
// later all answers are right again.
func TestLostLeasesAreNoAnswer(t *testing.T) {
	losses := map[string]func(*asker, *MemoryRegistry){
		"all":     func(_ *asker, m *MemoryRegistry) { flush(m) },
		"asker's": func(a *asker, m *MemoryRegistry) { forgetLease(m, a.asked.NodeID()) },
		"other's": func(a *asker, m *MemoryRegistry) { forgetLease(m, a.other.NodeID()) },
	}
	for name, lose := range losses {
		for phase := time.Duration(0); phase < 5*time.Second; phase += 700 * time.Millisecond {
			t.Run(fmt.Sprint(name, "/", phase), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					a, registries := newAsker(t, Config{PingInterval: -1})
					time.Sleep(phase)
					if lies, errs := a.lies(t); len(lies) > 0 || errs > 0 {
						t.Fatalf("before: %v, %d errors", lies, errs)
					}
					lose(a, registries[0])
					if name == "other's" {
						time.Sleep(listTrust)
					}
					for end := time.Now().Add(2 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
						if lies, _ := a.lies(t); len(lies) > 0 {
							t.Errorf("%v are untrue", lies)
						}
					}
					if lies, errs := a.lies(t); len(lies) > 0 || errs > 0 {
						t.Errorf("two seconds later: %v, %d errors", lies, errs)
					}
				})
			})
		}
	}
}

// A frozenRegistry renews no lease while it is frozen, like a Redis that was made a
// replica.
type frozenRegistry struct {
	*MemoryRegistry
	frozen *atomic.Bool
}

func (r frozenRegistry) KeepAlive(ctx context.Context, n Node, ttl time.Duration) (int64, error) {
	if r.frozen.Load() {
		return 0, ErrRegistryDown
	}
	return r.MemoryRegistry.KeepAlive(ctx, n, ttl)
}

// If a node cannot renew its lease, the others may not be able to either. A node
// whose lease ends first because of that is not gone.
func TestFrozenRegistryIsNoAnswer(t *testing.T) {
	const lease = 6 * time.Second
	for phase := time.Duration(0); phase < lease/3; phase += lease / 12 {
		for outage := lease / 2; outage < lease*3/2; outage += lease / 8 {
			t.Run(fmt.Sprint(phase, "/", outage), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var frozen atomic.Bool
					network, registry := NewMemoryNetwork(), NewMemoryRegistry()
					start := func(name string) *rig {
						return newPipeRig(t, Config{
							Name: name, Bus: network.Bus(), Registry: frozenRegistry{registry.Handle(), &frozen}, Lease: lease, PingInterval: -1,
						})
					}
					holder := start("holder")
					time.Sleep(phase)
					asker := start("asker")
					go io.Copy(io.Discard, holder.pipe("user=u"))
					time.Sleep(5 * lease)
					ask := func() (ok bool) {
						online, err := asker.Online(t.Context(), "u")
						if ok = err == nil; ok && !online["u"] {
							t.Errorf("%v: Online says no", time.Now())
						}
						nodes, err := asker.Nodes(t.Context())
						if err == nil && len(nodes) != 2 {
							t.Errorf("%v: Nodes lists %d", time.Now(), len(nodes))
						}
						return ok && err == nil
					}
					buses := []*MemoryBus{holder.bus.(*MemoryBus), asker.bus.(*MemoryBus)}
					if !ask() {
						t.Error("no answer while all is well")
					}
					frozen.Store(true)
					for _, b := range buses {
						b.cutOff()
					}
					for end := time.Now().Add(outage); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
						ask()
					}
					frozen.Store(false)
					for _, b := range buses {
						b.heal()
					}
					for end := time.Now().Add(lease); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
						ask()
					}
					if !ask() {
						t.Error("no answer a lease later")
					}
				})
			})
		}
	}
}

// An overtakenRegistry lists the nodes, but returns from Nodes only after overtake
// has.
type overtakenRegistry struct {
	*MemoryRegistry
	overtake *atomic.Pointer[func()]
}

func (r overtakenRegistry) Nodes(ctx context.Context) ([]Node, time.Time, error) {
	nodes, now, err := r.MemoryRegistry.Nodes(ctx)
	if overtake := r.overtake.Swap(nil); overtake != nil {
		(*overtake)()
	}
	return nodes, now, err
}

// A listing that lacks a living node is no answer, even if a later listing that has
// it arrives first.
func TestOvertakenListing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network, registry := NewMemoryNetwork(), NewMemoryRegistry()
		var overtake atomic.Pointer[func()]
		asker := newHub(t, Config{
			Name: "asker", Bus: network.Bus(), Registry: overtakenRegistry{registry.Handle(), &overtake},
		})
		other := newHub(t, Config{Name: "other", Bus: network.Bus(), Registry: registry.Handle()})
		time.Sleep(time.Second)
		forgetLease(registry, other.NodeID())
		later := func() {
			other.presence.lose(other.presence.current().Generation)
			time.Sleep(2 * time.Second)
			if nodes, err := asker.Nodes(t.Context()); err != nil || len(nodes) != 2 {
				t.Errorf("two seconds later: %v, %v", nodes, err)
			}
		}
		overtake.Store(&later)
		if nodes, err := asker.Nodes(t.Context()); err == nil && len(nodes) != 2 {
			t.Errorf("Nodes lists %v", nodes)
		}
	})
}

// If Disconnect returns nil, it has closed the client, whatever the Registry has
// lost, and however long it took no writes.
func TestDisconnectIsNeverEmpty(t *testing.T) {
	for name, target := range map[string]func(*Conn) Target{
		"user":       func(*Conn) Target { return User("u") },
		"group":      func(*Conn) Target { return Group("g") },
		"connection": func(c *Conn) Target { return Connection(c.ID()) },
		"everyone":   func(*Conn) Target { return Everyone() },
	} {
		for fault, lose := range map[string]func(*asker, [2]*MemoryRegistry){
			"flushed":        func(_ *asker, m [2]*MemoryRegistry) { flush(m[0]) },
			"flushed before": func(a *asker, m [2]*MemoryRegistry) { flush(m[0]); time.Sleep(time.Second) },
			"other's lease":  func(a *asker, m [2]*MemoryRegistry) { forgetLease(m[0], a.other.NodeID()) },
			"other cut off": func(a *asker, m [2]*MemoryRegistry) {
				m[1].cut.Store(true)
				time.Sleep(5 * a.asked.config.Lease)
			},
			"both cut off": func(a *asker, m [2]*MemoryRegistry) {
				m[0].cut.Store(true)
				m[1].cut.Store(true)
				time.Sleep(5 * a.asked.config.Lease)
				m[0].cut.Store(false)
			},
		} {
			t.Run(name+"/"+fault, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					a, registries := newAsker(t, Config{PingInterval: -1, CloseTimeout: time.Second})
					lose(a, registries)
					err := a.asked.Disconnect(t.Context(), target(a.conn), 4000, "out")
					closed := a.conn.ctx.Err() != nil
					if err == nil && !closed {
						t.Error("Disconnect returned nil, and the client is there")
					}
					t.Logf("closed: %t, %v", closed, err)
				})
			})
		}
	}
}

// Nodes that come and leave make no question fail. A node that is killed makes
// questions fail only if they are about its own sessions, and only until its lease
// ends.
func TestComingAndGoing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network, registry := NewMemoryNetwork(), NewMemoryRegistry()
		start := func(name string) *Hub {
			return newHub(t, Config{Name: name, Bus: network.Bus(), Registry: registry.Handle()})
		}
		h := start("asker")
		ask := func(what string) {
			t.Helper()
			if _, err := h.Online(t.Context(), "u"); err != nil {
				t.Errorf("%s: Online: %v", what, err)
			}
			if _, err := h.Count(t.Context()); err != nil {
				t.Errorf("%s: Count: %v", what, err)
			}
			if err := h.Disconnect(t.Context(), User("u"), 4000, ""); err != nil {
				t.Errorf("%s: Disconnect: %v", what, err)
			}
		}
		for i := range 20 {
			other := start(fmt.Sprint("node", i))
			ask("just started")
			time.Sleep(time.Duration(i) * 700 * time.Millisecond)
			ask("lives")
			if err := other.Shutdown(context.Background()); err != nil {
				t.Fatal(err)
			}
			synctest.Wait() // its goodbye may still be under way
			ask("has left")
		}
		dead := start("dead")
		time.Sleep(10 * time.Second)
		ask("lives")
		dead.bus.(*MemoryBus).cutOff()
		dead.registry.(*MemoryRegistry).cut.Store(true)
		before := time.Now()
		for n := 2; n > 1; time.Sleep(10 * time.Millisecond) {
			nodes, _, err := registry.Nodes(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if n = 0; slices.ContainsFunc(nodes, func(n Node) bool { return n.ID == dead.id && n.Alive }) {
				n = 2
			}
			if _, err := h.Online(t.Context(), "u"); err != nil {
				t.Errorf("%v after its death: Online: %v", time.Since(before), err)
			}
		}
		ask("is dead")
	})
}

// A slowRegistry takes its time for Add.
type slowRegistry struct {
	*MemoryRegistry
	delay atomic.Int64
}

func (r *slowRegistry) Add(ctx context.Context, l Lease, entries ...Entry) ([]Added, error) {
	time.Sleep(time.Duration(r.delay.Load()))
	return r.MemoryRegistry.Add(ctx, l, entries...)
}

// A node has its lease again before its sessions are back. Until they are,
// neither it nor another says that they are not there.
func TestNoAnswerWhileSessionsAreMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network, registry := NewMemoryNetwork(), NewMemoryRegistry()
		asker := newHub(t, Config{Name: "asker", Bus: network.Bus(), Registry: registry.Handle()})
		slow := &slowRegistry{MemoryRegistry: registry.Handle()}
		holder := newPipeRig(t, Config{Name: "holder", Bus: network.Bus(), Registry: slow, PingInterval: -1})
		holder.pipe("user=u")
		time.Sleep(10 * time.Second)
		slow.delay.Store(int64(3 * time.Second))
		flush(registry)
		answers := 0
		for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			for _, h := range []*Hub{asker, holder.Hub} {
				online, err := h.Online(t.Context(), "u")
				if err == nil && !online["u"] {
					t.Fatalf("%s says that its user is gone, %v before the end", h.NodeID(), time.Until(end))
				}
				if err == nil {
					answers++
				}
			}
		}
		if answers < 1000 {
			t.Errorf("%d answers in ten seconds", answers)
		}
	})
}

// A node that finds that the Registry has lost its data tells the others, even if
// nobody asks anything.
func TestLossIsPassedOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network, registry := NewMemoryNetwork(), NewMemoryRegistry()
		var hubs []*Hub
		for i := range 2 {
			hubs = append(hubs, newHub(t, Config{Name: fmt.Sprint("node", i), Bus: network.Bus(), Registry: registry.Handle()}))
			time.Sleep(4 * time.Second) // of the 5 between two renewals
		}
		before := []int64{hubs[0].presence.generation.Load(), hubs[1].presence.generation.Load()}
		flush(registry)
		for hubs[0].presence.generation.Load() == before[0] && hubs[1].presence.generation.Load() == before[1] {
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(500 * time.Millisecond)
		for i, h := range hubs {
			if h.presence.generation.Load() == before[i] {
				t.Errorf("%s has not been told", h.NodeID())
			}
		}
	})
}

// A call does not wait for a node that says goodbye, because its connections have
// gone.
func TestLeavingNodeNeedNotAnswer(t *testing.T) {
	h := newHub(t, Config{})
	p := &pendingCall{missing: map[string]bool{"a": true, "b": true}, done: make(chan struct{})}
	h.calls.mu.Lock()
	h.calls.pending[7] = p
	h.calls.mu.Unlock()
	for i, node := range []string{"a", "other", "b"} {
		goodbye := envelope{kind: kindHeartbeat, sender: node, id: 1, notice: noticeLeaving}
		if err := h.bus.Publish(t.Context(), Packet{topicHeartbeat, goodbye.encode()}); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			h.calls.answered(7, "a", "too late") // or a moment before
		}
	}
	<-p.done
	if !slices.Equal(p.failed, nil) && !slices.Equal(p.failed, []string{"a"}) {
		t.Errorf("failed are %v", p.failed)
	}
}

// An emptied Registry does not pass for one in which nobody is online, even without
// heartbeats: whoever was listed is missed until the lease has run out.
func TestEmptiedRegistryWithoutHeartbeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry, network := NewMemoryRegistry(), NewMemoryNetwork()
		node := func() *rig {
			return newPipeRig(t, Config{Bus: network.Bus(), Registry: registry.Handle(), ProbeInterval: -1})
		}
		holder, asker := node(), node()
		time.Sleep(2 * asker.config.Lease) // asker has looked what holder has, which is nothing
		go holder.pipe("")
		holder.only()
		if online, err := asker.Online(t.Context(), "u"); err != nil || !online["u"] {
			t.Fatalf("before: %v, %v", online, err)
		}
		flush(registry)
		right := 0
		for range 100 {
			online, err := asker.Online(t.Context(), "u")
			if err == nil && !online["u"] {
				t.Fatal("the user is said to be offline")
			}
			if err == nil {
				right++
			}
			time.Sleep(asker.config.Lease / 150)
		}
		if right == 0 {
			t.Error("there was no answer for two thirds of a lease")
		}
	})
}

// If a Registry renews leases but fails otherwise, at reading or at writing, Health
// turns red and the log says so once. A short failure does neither.
func TestAilingRegistryIsTold(t *testing.T) {
	for _, fails := range []string{"entries", "adds"} {
		t.Run(fails, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log bytes.Buffer
				registry := &moodyRegistry{hookedRegistry: &hookedRegistry{MemoryRegistry: NewMemoryRegistry()}}
				registry.afterAdd = func([]Entry) error {
					if registry.adds.Load() {
						return errMute
					}
					return nil
				}
				r := newPipeRig(t, Config{
					Bus: NewMemoryNetwork().Bus(), Registry: registry, PingInterval: -1,
					Logger: slog.New(slog.NewTextHandler(&log, nil)),
				})
				r.pipe("user=u")
				mood := map[string]*atomic.Bool{"entries": &registry.entries, "adds": &registry.adds}[fails]
				for _, long := range []bool{false, true, true} {
					log.Reset()
					mood.Store(true)
					d := r.config.Lease / 2
					if long {
						d = 5 * r.config.Lease
					}
					for range 20 {
						time.Sleep(d / 20)
						r.presence.sync(r.only(), false)
					}
					if err := r.Health(); long != errors.Is(err, ErrRegistryDown) || long != errors.Is(err, errMute) {
						t.Errorf("after %v: Health: %v", d, err)
					}
					if n := strings.Count(log.String(), "fails otherwise"); n > 1 || long != (n == 1) {
						t.Errorf("after %v it was told of %d times:\n%s", d, n, log.String())
					}
					mood.Store(false)
					time.Sleep(2 * r.config.Lease)
					if err := r.Health(); err != nil {
						t.Errorf("afterwards: Health: %v", err)
					}
				}
			})
		})
	}
}

// A moodyRegistry fails at what it is told to fail at.
type moodyRegistry struct {
	*hookedRegistry
	entries, adds atomic.Bool
}

func (r *moodyRegistry) Entries(ctx context.Context, l Lease, cursor string) ([]Entry, string, error) {
	if r.entries.Load() {
		return nil, "", errMute
	}
	return r.hookedRegistry.Entries(ctx, l, cursor)
}

// clusterRigs starts n hubs whose Registry is on the Cluster c.
func clusterRigs(t *testing.T, c *redistest.Cluster, n int) []*rig {
	t.Helper()
	network := NewMemoryNetwork()
	rigs := make([]*rig, n)
	for i := range rigs {
		registry, err := NewRedisRegistry(c.Client(), nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { registry.Close() })
		rigs[i] = newRig(t, Config{Bus: network.Bus(), Registry: registry, Lease: 6 * time.Second, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	}
	return rigs
}

// allListed waits until every hub lists every user's session.
func allListed(t *testing.T, rigs []*rig, users []string) {
	t.Helper()
	for i, r := range rigs {
		await(t, fmt.Sprintf("all sessions at hub %d", i), func() bool {
			online, err := r.Online(t.Context(), users...)
			if err != nil {
				return false
			}
			for _, on := range online {
				if !on {
					return false
				}
			}
			sessions, err := r.Sessions(t.Context(), Group("all"))
			return err == nil && len(sessions) == len(users) && r.Health() == nil
		})
	}
}

// connectUsers connects users to the hubs in turn.
func connectUsers(rigs []*rig, from, n int) (users []string) {
	for i := from; i < from+n; i++ {
		user := fmt.Sprint("user", i)
		rigs[i%len(rigs)].connect("user=" + user + "&groups=all")
		users = append(users, user)
	}
	return users
}

// shardOf returns the prefix of all keys in the shard of a topic.
func shardOf(topic string) string {
	return "herald:{" + redisconn.Tags[redisconn.ShardOf(topic, len(redisconn.Tags))] + "}:"
}

// FuzzSession checks that any bytes in Redis can be decoded or are refused, and
// that a Session which herald has written is read back unchanged.
func FuzzSession(f *testing.F) {
	f.Add("0:0:0:0:", "42", "phone", "ios", "k", "v")
	f.Add("99999999999:n", "a\x00b\n", "", "\xff", "", "")
	f.Add("0:0:0:6:1:k1:v3:new", "1:2", "*", "{}", "", ":")
	f.Fuzz(func(t *testing.T, raw, user, device, platform, key, value string) {
		if s, ok := decodeSession(redisregistry.Session{Body: raw}); ok {
			if again, ok := decodeSession(encodeSession(s)); !ok || !reflect.DeepEqual(again, s) {
				t.Fatalf("%q decodes to %+v, which comes back as %+v (%v)", raw, s, again, ok)
			}
		}
		want := Session{
			ID: "n.1", User: user, Device: device, Platform: platform, Node: "n", RemoteAddr: user + key,
			Since: time.UnixMicro(7), Meta: map[string]string{key: value, value: key},
		}
		if got, ok := decodeSession(encodeSession(want)); !ok || !reflect.DeepEqual(got, want) {
			t.Fatalf("%+v came back as %+v (%v)", want, got, ok)
		}
	})
}

// A master is killed before its last writes have reached the replica that takes
// over. The hubs put back what is missing.
func TestHubRegistryFailover(t *testing.T) {
	cluster := redistest.StartCluster(t, 3, 3)
	rigs := clusterRigs(t, cluster, 2)
	users := connectUsers(rigs, 0, 200)
	allListed(t, rigs, users)

	// This is the shard that has the group "all".
	slot := cluster.Slot(shardOf(groupTopic("all")))
	master := cluster.MasterOf(slot)
	replica := cluster.ReplicaOf(master)
	for _, setting := range []string{"masteruser", "masterauth"} {
		if err := replica.Admin().ConfigSet(t.Context(), setting, "nobody").Err(); err != nil {
			t.Fatal(err)
		}
	}
	if err := master.Admin().Do(t.Context(), "CLIENT", "KILL", "TYPE", "replica").Err(); err != nil {
		t.Fatal(err)
	}
	users = append(users, connectUsers(rigs, len(users), 700)...)
	allListed(t, rigs, users)
	master.Kill()
	killed := time.Now()
	cluster.AwaitFailover(slot, master)
	t.Logf("a replica took over after %v", time.Since(killed))
	missing := func() int64 {
		key := shardOf(groupTopic("all")) + "t:" + groupTopic("all")
		return int64(len(users)) - replica.Admin().HLen(context.Background(), key).Val()
	}()
	t.Logf("%d of %d sessions were lost in the shard of their group", missing, len(users))
	allListed(t, rigs, users)
	t.Logf("all sessions are listed after %v", time.Since(killed))
}

// A master without a replica comes back empty.
func TestHubRegistryShardComesBackEmpty(t *testing.T) {
	cluster := redistest.StartCluster(t, 3, 0)
	rigs := clusterRigs(t, cluster, 2)
	users := connectUsers(rigs, 0, 200)
	allListed(t, rigs, users)
	for i := range cluster.Nodes {
		cluster.Nodes[i].Kill()
		cluster.Nodes[i].Restart()
		cluster.AwaitOK()
		allListed(t, rigs, users)
	}
	// Every place is there, and none twice.
	places := 0
	for _, r := range rigs {
		for _, e := range entriesOf(t, r.Hub) {
			places += len(e.places())
		}
	}
	if places != 2*len(users) {
		t.Errorf("%d places, want %d", places, 2*len(users))
	}
}

// The entries of a hub that died are swept from every shard.
func TestHubRegistrySweepsAllShards(t *testing.T) {
	cluster := redistest.StartCluster(t, 3, 0)
	registry, err := NewRedisRegistry(cluster.Client(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer registry.Close()
	dead := Node{ID: "dead"}
	if dead.Generation, err = registry.KeepAlive(t.Context(), dead, time.Second); err != nil {
		t.Fatal(err)
	}
	var entries []Entry
	for i := range 300 {
		user := fmt.Sprint("user", i)
		entries = append(entries, Entry{Session: Session{ID: "dead." + user, User: user}, UserTopic: userTopic(user), Topics: []string{groupTopic("all")}})
	}
	if _, err := registry.Add(t.Context(), dead.Lease(), entries...); err != nil {
		t.Fatal(err)
	}
	newRig(t, Config{Bus: NewMemoryNetwork().Bus(), Registry: registry, Lease: 300 * time.Millisecond})
	await(t, "the sweep of all shards", func() bool {
		for _, n := range cluster.Nodes {
			if keys, err := n.Admin().Keys(t.Context(), "*dead*").Result(); err != nil || len(keys) > 0 {
				return false
			}
		}
		nodes, _, err := registry.Nodes(t.Context())
		return err == nil && len(nodes) == 1
	})
}

// New warns of a Redis that may evict any key.
func TestHubTellsOfEviction(t *testing.T) {
	server := redistest.Start(t)
	for policy, want := range map[string]int{"allkeys-lru": 1, "noeviction": 0, "volatile-lru": 0} {
		if err := server.Client().ConfigSet(t.Context(), "maxmemory-policy", policy).Err(); err != nil {
			t.Fatal(err)
		}
		logger, lines := newLog()
		hub, err := New(Config{Redis: server.Client(), Logger: logger})
		if err != nil {
			t.Fatal(err)
		}
		hub.Shutdown(t.Context())
		if got := told(lines, "level=WARN msg=\"herald: this Redis may evict"); got != want {
			t.Errorf("%s is told of %d times, want %d", policy, got, want)
		}
	}
}

// once says each part of a text once. It names everything that is down, even if one
// cause has brought down several things.
func TestOnce(t *testing.T) {
	refused := errors.New("dial: connection refused")
	bus, registry := fmt.Errorf("%w: %w", ErrBusDown, refused), fmt.Errorf("redis registry: %w: %w", ErrRegistryDown, refused)
	for _, c := range []struct {
		err  error
		want string
	}{
		{refused, "dial: connection refused"},
		{errors.Join(bus, bus), "herald: bus is down: dial: connection refused"},
		{errors.Join(bus, fmt.Errorf("publish: %w", bus)), "herald: bus is down: dial: connection refused"},
		{errors.Join(bus, registry), "herald: bus is down: dial: connection refused; registry is down"},
		{errors.Join(ErrDraining, ErrDraining, bus), "herald: draining; bus is down: dial: connection refused"},
		{fmt.Errorf("%w: %w", ErrBusDown, bus), "herald: bus is down: dial: connection refused"},
	} {
		err := once(c.err)
		if err.Error() != c.want {
			t.Errorf("got %q, want %q", err, c.want)
		}
		if !errors.Is(err, c.err) {
			t.Errorf("%q has lost its chain", err)
		}
	}
}
