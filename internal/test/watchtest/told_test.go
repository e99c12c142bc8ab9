package watchtest

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/heraldtest"
	"github.com/heraldgo/herald/internal/test/wsraw"
)

func member(user string) herald.Identity { return herald.Identity{User: user, Groups: []string{room}} }

// startWatch watches the room until the test ends. The function that it returns
// waits until the given members have come and gone, written as "+anna -bert", in
// any number of Presences. Only the first one may be empty.
func startWatch(t *testing.T, hub *herald.Hub) (want func(told string)) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	presences, ended := make(chan herald.Presence), make(chan error, 1)
	go func() {
		first := true
		ended <- watchEnd(ctx, hub, room, func(p herald.Presence) {
			if !first && len(p.Joined)+len(p.Left) == 0 {
				t.Error("told nothing")
			}
			first = false
			select {
			case presences <- p:
			case <-ctx.Done():
			}
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("the watch ended with %v", err)
		}
	})
	users := make(map[string]string)
	return func(told string) {
		t.Helper()
		left := strings.Fields(told)
		take := func(word string) {
			i := slices.Index(left, word)
			if i < 0 {
				t.Fatalf("told %s, want %q", word, left)
			}
			left = slices.Delete(left, i, i+1)
		}
		for first := true; first || len(left) > 0; first = false {
			select {
			case p := <-presences:
				for _, s := range p.Joined {
					users[s.ID] = s.User
					take("+" + s.User)
				}
				for _, s := range p.Left {
					take("-" + users[s.ID])
				}
			case <-time.After(patience):
				t.Fatalf("%q is not told", left)
			}
		}
	}
}

// A registry stands in for a real one, and counts the calls for lists. After the
// first list it may fail them, so that only changes tell what happens.
type registry struct {
	*herald.MemoryRegistry
	once  bool
	lists atomic.Int32
	ttl   atomic.Int64
}

func (r *registry) Watch(ctx context.Context, lease herald.Lease, ttl time.Duration, topics ...string) ([]herald.Watched, error) {
	r.ttl.Store(int64(ttl))
	if r.lists.Add(1) > 1 && r.once {
		return nil, herald.ErrRegistryDown
	}
	if r.once {
		ttl = time.Hour // so that no later list renews the mark
	}
	return r.MemoryRegistry.Watch(ctx, lease, ttl, topics...)
}

// openHub opens a Hub that ends with the test. Its clients are in the room.
func openHub(t *testing.T, config herald.Config) (hub *herald.Hub, addr string) {
	t.Helper()
	config.Authenticate = func(r *http.Request) (herald.Identity, error) { return member(r.URL.Query().Get("user")), nil }
	config.Logger = slog.New(slog.DiscardHandler)
	hub, err := herald.New(config)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(hub)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		hub.Shutdown(ctx)
		server.Close()
	})
	return hub, server.Listener.Addr().String()
}

// connect connects a client that reads nothing.
func connect(t *testing.T, addr, user string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, response, err := wsraw.Handshake(conn, "/?user="+user, nil); err != nil || response.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%v, %v", response, err)
	}
	return conn
}

// Changes alone tell a watcher who comes and who goes, including members whose node
// died and who were swept. While no list can be had, nobody seems to leave.
func TestChangesAlone(t *testing.T) {
	const lease = time.Second
	store := herald.NewMemoryRegistry()
	dead := store.Handle()
	generation, err := dead.KeepAlive(t.Context(), herald.Node{ID: "dead"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	ghost := herald.Entry{Session: herald.Session{ID: "dead.1", User: "ghost"}, UserTopic: "ughost", Topics: []string{"g" + room}}
	if _, err := dead.Add(t.Context(), herald.Lease{Node: "dead", Generation: generation}, ghost); err != nil {
		t.Fatal(err)
	}
	hub, addr := openHub(t, herald.Config{Bus: herald.NewMemoryNetwork().Bus(), Registry: &registry{MemoryRegistry: store.Handle(), once: true}, Lease: lease})
	want := startWatch(t, hub)
	want("+ghost")
	anna := connect(t, addr, "anna")
	want("+anna")
	anna.Close()
	want("-anna")
	connect(t, addr, "bert")
	want("+bert")
	if _, err := dead.KeepAlive(t.Context(), herald.Node{ID: "dead", Generation: generation}, lease); err != nil {
		t.Fatal(err)
	}
	want("-ghost")
}

// A list is asked for only when changes are heard, once for all watchers on a node.
// It sets a mark that lasts until after the next list.
func TestFollowsFirst(t *testing.T) {
	bus := &slowBus{Bus: herald.NewMemoryNetwork().Bus(), asked: make(chan bool), confirm: make(chan bool)}
	reg := &registry{MemoryRegistry: herald.NewMemoryRegistry()}
	hub, addr := openHub(t, herald.Config{Bus: bus, Registry: reg, SendTimeout: patience, Lease: time.Hour})
	want := startWatch(t, hub)
	<-bus.asked
	for range 100 { // give it time for the mistake
		if time.Sleep(time.Millisecond); reg.lists.Load() > 0 {
			t.Fatal("the list was asked for before changes are heard")
		}
	}
	close(bus.confirm)
	want("")
	if ttl := time.Duration(reg.ttl.Load()); ttl < 2*time.Hour {
		t.Errorf("the mark lasts for %v, and the next list may come after more than an hour", ttl)
	}
	connect(t, addr, "anna")
	want("+anna")
	startWatch(t, hub)("+anna")
	if n := reg.lists.Load(); n != 1 {
		t.Errorf("%d lists for two who watch", n)
	}
}

// A slowBus confirms the subscription to the changes of the room only when the test
// lets it.
type slowBus struct {
	herald.Bus
	asked, confirm chan bool
}

func (b *slowBus) Subscribe(ctx context.Context, topics ...string) error {
	if slices.Contains(topics, "w"+room) {
		close(b.asked)
		<-b.confirm
	}
	return b.Bus.Subscribe(ctx, topics...)
}

// After a gap a list is asked for at once, whether the Bus reports the gap or
// heartbeats show it.
func TestGap(t *testing.T) {
	cluster := heraldtest.NewCluster(t, 2, herald.Config{Lease: time.Hour, ProbeInterval: 50 * time.Millisecond, ProbeTimeout: time.Second})
	want := startWatch(t, cluster.Nodes[0].Hub)
	want("")
	bus := cluster.Nodes[0].Bus
	bus.Cut()
	cluster.Connect(1, member("anna"))
	cluster.Nodes[0].AwaitHealth(herald.ErrBusDown)
	bus.Heal()
	want("+anna")
	bus.Lose(true) // until the Hub resets the Bus
	cluster.Connect(1, member("bert"))
	want("+bert")
}

// encode writes a Presence as "+anna -bert".
func encode(p herald.Presence) herald.Message {
	var words []string
	for _, s := range p.Joined {
		words = append(words, "+"+s.User)
	}
	for _, s := range p.Left {
		words = append(words, "-"+s.User)
	}
	return herald.Text(strings.Join(words, " "))
}

// Whenever a member joins, it is told of all who are there, the oldest first, and
// then of changes.
func TestTellMembers(t *testing.T) {
	cluster := heraldtest.NewCluster(t, 1, herald.Config{})
	hub := cluster.Nodes[0].Hub
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- hub.TellMembers(ctx, room, encode) }()
	anna := cluster.Connect(0, member("anna"))
	anna.Expect("+anna")
	users, all := []string{"zoe", "carl", "maria", "bert"}, "+anna"
	for _, user := range users {
		c := cluster.Connect(0, member(user))
		all += " +" + user
		c.Expect(all)
		anna.Expect("+" + user)
	}
	if err := hub.Leave(t.Context(), herald.User("zoe"), room); err != nil {
		t.Fatal(err)
	}
	anna.Expect("-zoe")
	dora := cluster.Connect(0, member("dora"))
	dora.Expect("+anna +carl +maria +bert +dora")
	anna.Expect("+dora")
	if err := hub.Leave(t.Context(), herald.User("anna"), room); err != nil {
		t.Fatal(err)
	}
	dora.Expect("-anna")
	if err := hub.Join(t.Context(), herald.User("anna"), room); err != nil {
		t.Fatal(err)
	}
	dora.Expect("+anna")
	anna.Expect("+anna +carl +maria +bert +dora")
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("it ended with %v", err)
	}
}

// A member leaves while the Registry is down, misses a change, and comes back. It is told
// of all again, whether it leaves the Registry and comes back while TellMembers is busy,
// or the Registry never learns that it was away. The others are told nothing of that.
func TestTellMembersBack(t *testing.T) {
	for name, noticed := range map[string]bool{"while it is busy": true, "unnoticed": false} {
		t.Run(name, func(t *testing.T) {
			berts := make(chan *herald.Conn, 1)
			cluster := heraldtest.NewCluster(t, 2, herald.Config{Lease: 2 * lease, OnConnect: func(_ context.Context, c *herald.Conn) error {
				if c.User() == "bert" {
					berts <- c
				}
				return nil
			}})
			hub, registry := cluster.Nodes[0].Hub, cluster.Nodes[0].Registry
			anna := cluster.Connect(0, member("anna"))
			bert := cluster.Connect(0, member("bert"))
			want := startWatch(t, hub)
			want("+anna +bert")
			conn := <-berts
			ctx, cancel := context.WithCancel(t.Context())
			busy, done, ended := make(chan bool), make(chan bool), make(chan error, 1)
			go func() {
				ended <- hub.TellMembers(ctx, room, func(p herald.Presence) herald.Message {
					if len(p.Joined) == 1 && p.Joined[0].User == "carl" {
						busy <- true
						<-done
					}
					return encode(p)
				})
			}()
			anna.Expect("+anna +bert")
			bert.Expect("+anna +bert")

			registry.Cut()
			if err := conn.Leave(t.Context(), room); !errors.Is(err, herald.ErrRegistryDown) {
				t.Fatalf("left while the Registry is down: %v", err)
			}
			cluster.Connect(1, member("carl"))
			want("+carl")
			<-busy
			if noticed {
				registry.Heal()
				want("-bert")
				if err := conn.Join(t.Context(), room); err != nil {
					t.Fatal(err)
				}
				want("+bert")
			} else {
				if err := conn.Join(t.Context(), room); !errors.Is(err, herald.ErrRegistryDown) {
					t.Fatalf("joined while the Registry is down: %v", err)
				}
				registry.Heal()
			}
			close(done)
			bert.Expect("+anna +bert +carl")
			anna.Expect("+carl")
			anna.ExpectNothing()
			cancel()
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Errorf("it ended with %v", err)
			}
		})
	}
}
