package herald_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/heraldtest"
	"github.com/heraldgo/herald/internal/test/redistest"
)

// These tests check what a Hub does as its users see it, mostly on three nodes.
// Promises about failures are tested beside the code that keeps them.

// family starts three nodes, with a device of user 42 on each.
func family(t *testing.T, config herald.Config) (*heraldtest.Cluster, []*heraldtest.Client) {
	t.Helper()
	cluster := heraldtest.NewCluster(t, 3, config)
	var devices []*heraldtest.Client
	for i := range cluster.Nodes {
		devices = append(devices, cluster.Connect(i, herald.Identity{User: "42", Groups: []string{"family"}}))
	}
	return cluster, devices
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// await waits until done returns true.
func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func TestSendReachesEveryDeviceOnEveryNode(t *testing.T) {
	cluster, devices := family(t, herald.Config{})
	stranger := cluster.Connect(0, herald.Identity{User: "43"})
	texts := []string{"hello from 0", "hello from 1", "hello from 2"}
	for i, node := range cluster.Nodes {
		must(t, node.Hub.Send(t.Context(), herald.User("42"), herald.Text(texts[i])))
	}
	for _, d := range devices {
		d.Expect(texts...)
	}
	stranger.ExpectNothing()
	must(t, cluster.Nodes[2].Hub.Send(t.Context(), herald.Everyone(), herald.Text("all")))
	stranger.Expect("all")
}

// Each kind of Target reaches its receivers, without those that it leaves out.
func TestSendReachesItsTarget(t *testing.T) {
	cluster, devices := family(t, herald.Config{})
	hub := cluster.Nodes[1].Hub
	sessions, err := hub.Sessions(t.Context(), herald.User("42"))
	must(t, err)
	on := func(node int) string {
		for _, s := range sessions {
			if s.Node == cluster.Nodes[node].Hub.NodeID() {
				return s.ID
			}
		}
		t.Fatalf("node %d has none of %v", node, sessions)
		return ""
	}
	for _, send := range []struct {
		to   herald.Target
		text string
	}{
		{herald.Group("family"), "to the group"},
		{herald.Group("family").Except(on(1)), "to the others"},
		{herald.Connection(on(2)), "to one"},
		{herald.Everyone().ExceptUser("42"), "to nobody"},
		{herald.Group("family"), "to the group again"},
	} {
		must(t, hub.Send(t.Context(), send.to, herald.Text(send.text)))
	}
	devices[0].Expect("to the group", "to the others", "to the group again")
	devices[1].Expect("to the group", "to the group again")
	devices[2].Expect("to the group", "to the others", "to one", "to the group again")
}

// When Join, Leave or Disconnect returns nil, it is done on every node.
func TestCallsAreDoneEverywhere(t *testing.T) {
	cluster, devices := family(t, herald.Config{})
	first, last := cluster.Nodes[0].Hub, cluster.Nodes[2].Hub
	must(t, first.Join(t.Context(), herald.User("42"), "news"))
	must(t, last.Send(t.Context(), herald.Group("news"), herald.Text("you are in")))
	for _, d := range devices {
		d.Expect("you are in")
	}
	must(t, last.Leave(t.Context(), herald.User("42"), "news"))
	must(t, first.Send(t.Context(), herald.Group("news"), herald.Text("you are out")))
	for _, d := range devices {
		d.ExpectNothing()
	}
	must(t, first.Disconnect(t.Context(), herald.User("42"), 4001, "logged out"))
	for _, d := range devices {
		d.ExpectClose(4001)
	}
	online, err := last.Online(t.Context(), "42")
	must(t, err)
	if online["42"] {
		t.Error("a user whose connections are all closed is online")
	}
}

// Online, Sessions, Count and Nodes give the same answers on every node.
func TestEveryNodeKnowsTheSame(t *testing.T) {
	cluster, devices := family(t, herald.Config{})
	devices[0].Close()
	await(t, "two connections", func() bool {
		n, err := cluster.Nodes[1].Hub.Count(t.Context())
		return err == nil && n == 2
	})
	for i, node := range cluster.Nodes {
		online, err := node.Hub.Online(t.Context(), "42", "43")
		must(t, err)
		if !online["42"] || online["43"] {
			t.Errorf("node %d: online is %v, want 42 alone", i, online)
		}
		sessions, err := node.Hub.Sessions(t.Context(), herald.Group("family"))
		must(t, err)
		if len(sessions) != 2 {
			t.Errorf("node %d: the sessions are %v, want two", i, sessions)
		}
		nodes, err := node.Hub.Nodes(t.Context())
		must(t, err)
		if len(nodes) != 3 {
			t.Errorf("node %d: the nodes are %v, want three", i, nodes)
		}
	}
}

// The callbacks of a connection run one after the other. OnOnline and OnOffline run
// once for a user, however many nodes the user is connected to.
func TestCallbacks(t *testing.T) {
	said := make(chan string, 100)
	config := herald.Config{
		OnOnline:  func(user string) { said <- "online " + user },
		OnConnect: func(_ context.Context, c *herald.Conn) error { said <- "connect " + c.User(); return nil },
		OnMessage: func(_ context.Context, c *herald.Conn, m herald.Message) {
			said <- "message " + m.String()
			c.Send(m)
		},
		OnDisconnect: func(c *herald.Conn, _ error) { said <- "disconnect " + c.User() },
		OnOffline:    func(user string) { said <- "offline " + user },
	}
	cluster := heraldtest.NewCluster(t, 2, config)
	expect := func(want ...string) {
		t.Helper()
		for _, w := range want {
			if got := <-said; got != w {
				t.Errorf("%s, want %s", got, w)
			}
		}
	}
	first := cluster.Connect(0, herald.Identity{User: "42"})
	expect("online 42", "connect 42")
	second := cluster.Connect(1, herald.Identity{User: "42"})
	expect("connect 42")
	second.Send("echo")
	second.Expect("echo")
	first.Close()
	expect("message echo", "disconnect 42")
	second.Close()
	expect("disconnect 42", "offline 42")
}

// OnGap tells of messages that may be lost, and so does Health while the loss
// lasts.
func TestLossesAreTold(t *testing.T) {
	gaps := make(chan herald.Gap, 10)
	cluster, devices := family(t, herald.Config{OnGap: func(g herald.Gap) { gaps <- g }})
	node := cluster.Nodes[0]
	node.Bus.Cut()
	node.AwaitHealth(herald.ErrBusDown)
	if err := node.Hub.Send(t.Context(), herald.User("42"), herald.Text("lost")); !errors.Is(err, herald.ErrBusDown) {
		t.Errorf("Send without a Bus: %v, want ErrBusDown", err)
	}
	node.Bus.Heal()
	node.AwaitHealth(nil)
	if g := <-gaps; !g.All || !g.Since.Before(g.Until) {
		t.Errorf("the gap is %+v, want one in which all may be lost", g)
	}
	must(t, node.Hub.Send(t.Context(), herald.User("42"), herald.Text("found")))
	for _, d := range devices {
		d.Expect("found")
	}
}

// Shutdown tells every client to come back elsewhere, and returns when all
// callbacks have.
func TestShutdownEndsEverything(t *testing.T) {
	ended := make(chan string, 10)
	cluster, devices := family(t, herald.Config{OnDisconnect: func(c *herald.Conn, _ error) { ended <- c.User() }})
	shut := make(chan error)
	go func() { shut <- cluster.Nodes[0].Hub.Shutdown(context.Background()) }()
	devices[0].ExpectClose(herald.StatusServiceRestart)
	must(t, <-shut)
	if len(ended) != 1 {
		t.Errorf("%d callbacks have run when Shutdown returned, want one", len(ended))
	}
	if err := cluster.Nodes[0].Hub.Send(t.Context(), herald.User("42"), herald.Text("x")); !errors.Is(err, herald.ErrClosed) {
		t.Errorf("Send after Shutdown: %v, want ErrClosed", err)
	}
	must(t, cluster.Nodes[1].Hub.Send(t.Context(), herald.User("42"), herald.Text("we stay")))
	devices[1].Expect("we stay")
	devices[2].Expect("we stay")
}

// olderSessions makes a Session of each word, which is "device/platform" and also
// its ID. The oldest comes first.
func olderSessions(words string) []herald.Session {
	var sessions []herald.Session
	for _, word := range strings.Fields(words) {
		device, platform, _ := strings.Cut(word, "/")
		sessions = append(sessions, herald.Session{ID: word, Device: device, Platform: platform})
	}
	return sessions
}

func TestAdmitAll(t *testing.T) {
	spoil := func(_ context.Context, _ herald.Session, older []herald.Session, _ int) ([]herald.Session, error) {
		clear(older) // Admit owns its argument
		return []herald.Session{{ID: "stranger"}}, nil
	}
	for name, test := range map[string]struct {
		admit herald.AdmitFunc
		total int // if 0, the number of sessions in older
		want  string
	}{
		"none":                          {herald.AdmitAll(), 0, ""},
		"one":                           {herald.AdmitAll(herald.MaxPerUser(2)), 0, "a/web b/ios"},
		"a rule, then a limit":          {herald.AdmitAll(herald.OnePerPlatform(), herald.MaxPerUser(3)), 0, "a/web c/web"},
		"a rule, then a lower limit":    {herald.AdmitAll(herald.OnePerPlatform(), herald.MaxPerUser(1)), 0, "a/web c/web b/ios"},
		"a limit, then a rule":          {herald.AdmitAll(herald.MaxPerUser(3), herald.OnePerPlatform()), 0, "a/web c/web"},
		"more than are given":           {herald.AdmitAll(herald.OnePerPlatform(), herald.MaxPerUser(3)), 5, "a/web c/web b/ios"},
		"one that spoils what it gets":  {herald.AdmitAll(spoil, herald.OnePerPlatform()), 0, "stranger a/web c/web"},
		"a stranger counts for nothing": {herald.AdmitAll(spoil, herald.MaxPerUser(2)), 0, "stranger a/web b/ios"},
	} {
		t.Run(name, func(t *testing.T) {
			older := olderSessions("a/web b/ios c/web")
			evict, err := test.admit(t.Context(), herald.Session{ID: "new", Device: "d", Platform: "web"}, older, max(test.total, len(older)))
			var got []string
			for _, s := range evict {
				got = append(got, s.ID)
			}
			if err != nil || strings.Join(got, " ") != test.want {
				t.Errorf("evicts %q, want %q: %v", got, test.want, err)
			}
		})
	}
}

func TestAdmitAllRefuses(t *testing.T) {
	refusal := &herald.CloseError{Code: 4003}
	refuse := func(context.Context, herald.Session, []herald.Session, int) ([]herald.Session, error) {
		return nil, fmt.Errorf("banned: %w", refusal)
	}
	last := func(context.Context, herald.Session, []herald.Session, int) ([]herald.Session, error) {
		t.Error("one was asked behind the refusal")
		return nil, nil
	}
	evict, err := herald.AdmitAll(herald.MaxPerUser(1), refuse, last)(t.Context(), herald.Session{}, olderSessions("a/web"), 1)
	if !errors.Is(err, refusal) || len(evict) > 0 {
		t.Errorf("evicts %v: %v", evict, err)
	}
}

// saidOnce checks that err is target, or not nil if target is, and that no part of
// its text comes twice.
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

// askOnce checks the errors of a Hub whose Registry is down.
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

func TestMemoryRegistryCut(t *testing.T) {
	b := herald.NewMemoryRegistry()
	a := heraldtest.NewFaultyRegistry(b)
	generation, err := a.KeepAlive(t.Context(), herald.Node{ID: "n"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	lease := herald.Lease{Node: "n", Generation: generation}
	entry := herald.Entry{Session: herald.Session{ID: "n.1", User: "u"}, UserTopic: "u"}
	wantOnline := func(r herald.Registry, want bool) {
		t.Helper()
		if online, err := r.Online(t.Context(), lease, "u"); err != nil || online[0] != want {
			t.Errorf("the user is online: %v (%v), want %v", online, err, want)
		}
	}
	a.Cut()
	if _, err := a.Add(t.Context(), lease, entry); !errors.Is(err, herald.ErrRegistryDown) {
		t.Errorf("Add on a handle that is cut: %v, want ErrRegistryDown", err)
	}
	if _, _, err := a.Nodes(t.Context()); !errors.Is(err, herald.ErrRegistryDown) {
		t.Errorf("Nodes on a handle that is cut: %v, want ErrRegistryDown", err)
	}
	wantOnline(b, false)
	if _, err := b.Add(t.Context(), lease, entry); err != nil {
		t.Fatal(err)
	}
	a.Heal()
	wantOnline(a, true)
}
