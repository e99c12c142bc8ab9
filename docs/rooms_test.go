package docs_test

import (
	"context"
	"encoding/json"
	"errors"
	"log"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/heraldtest"
)

// rooms are those that a user may enter.
type rooms map[string][]string

func (s rooms) mayEnter(user, room string) bool { return slices.Contains(s[user], room) }

// onMessage is Config.OnMessage: a client enters a room, leaves it, or writes in it.
func (s *rooms) onMessage(ctx context.Context, c *herald.Conn, m herald.Message) {
	var said struct{ Enter, Leave, Room, Text string }
	if err := json.Unmarshal(m.Bytes(), &said); err != nil {
		c.Close(herald.StatusUnsupportedData, "not JSON")
		return
	}
	var err error
	switch {
	case said.Enter != "" && s.mayEnter(c.User(), said.Enter):
		err = c.Join(ctx, "room:"+said.Enter)
	case said.Leave != "":
		err = c.Leave(ctx, "room:"+said.Leave)
	case slices.Contains(c.Groups(), "room:"+said.Room):
		msg := herald.JSON(map[string]string{"from": c.User(), "text": said.Text})
		err = c.Hub().Send(ctx, herald.Group("room:"+said.Room), msg)
	}
	if err != nil {
		c.Close(herald.StatusTryAgainLater, "try again") // the client comes back
	}
}

// Members hear each other, on both nodes. Others neither hear nor are heard.
func TestRooms(t *testing.T) {
	s := &rooms{"anna": {"7"}, "bert": {"7", "8"}}
	cluster := heraldtest.NewCluster(t, 2, herald.Config{OnMessage: s.onMessage})
	anna := cluster.Connect(0, herald.Identity{User: "anna"})
	bert := cluster.Connect(1, herald.Identity{User: "bert"})
	carl := cluster.Connect(1, herald.Identity{User: "carl"})
	enter := func(c *heraldtest.Client, room string) {
		c.Send(`{"enter":"` + room + `"}`)
		c.Send(`{"room":"` + room + `","text":"here"}`)
	}
	enter(anna, "7")
	anna.Expect(`{"from":"anna","text":"here"}`)
	enter(bert, "7")
	bert.Expect(`{"from":"bert","text":"here"}`)
	anna.Expect(`{"from":"bert","text":"here"}`)
	enter(carl, "7") // who may not
	carl.ExpectNothing()
	anna.ExpectNothing()
	hub, ctx := cluster.Nodes[0].Hub, t.Context()
	sessions, err := hub.Sessions(ctx, herald.Group("room:7"))
	if err != nil || len(sessions) != 2 {
		t.Errorf("%d are in the room, %v", len(sessions), err)
	}
	bert.Send(`{"leave":"7"}`)
	bert.Send(`{"room":"7","text":"still here"}`)
	enter(bert, "8")
	bert.Expect(`{"from":"bert","text":"here"}`) // so he has left the other one
	anna.Send(`{"room":"7","text":"alone"}`)
	anna.Expect(`{"from":"anna","text":"alone"}`)
	bert.ExpectNothing()
	carl.Send(`hello`)
	carl.ExpectClose(herald.StatusUnsupportedData)
}

// A club has members who stay members when they are away.
type club struct {
	rooms
	hub     *herald.Hub
	members *members
}

func (s *club) user(r *http.Request) string { return r.Header.Get("User") }

// post has a user ask to become a member of room 7, and returns the status.
func (s *club) post(t *testing.T, user string) int {
	r := httptest.NewRequestWithContext(t.Context(), "POST", "/join", strings.NewReader("room=7"))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("User", user)
	w := httptest.NewRecorder()
	s.join(w, r)
	return w.Code
}

// members stands for a database: the rooms of each user.
type members struct {
	mu     sync.Mutex
	of     map[string][]string
	adding func() // is called before a room is added
	read   func() // is called when a user's rooms have been read
}

func (m *members) add(_ context.Context, user, room string) error {
	m.adding()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.of[user] = append(m.of[user], room)
	return nil
}

func (m *members) rooms(_ context.Context, user string) ([]string, error) {
	m.mu.Lock()
	rooms := slices.Clone(m.of[user])
	m.mu.Unlock()
	m.read()
	return rooms, nil
}

// join is POST /join: the user becomes a member of a room.
func (s *club) join(w http.ResponseWriter, r *http.Request) {
	user, room := s.user(r), r.PostFormValue("room")
	if !s.mayEnter(user, room) {
		http.Error(w, "not for you", http.StatusForbidden)
		return
	}
	err := s.members.add(r.Context(), user, room) // first for the connections that are still to come
	if err == nil {
		err = s.hub.Join(r.Context(), herald.User(user), "room:"+room) // and then for those that are there
	}
	var partial *herald.PartialError
	if errors.As(err, &partial) {
		log.Print(err) // all other nodes have done it, and the membership is stored
	} else if err != nil {
		http.Error(w, "try again", http.StatusServiceUnavailable)
	}
}

// onConnect is Config.OnConnect: a connection joins the rooms that its user is a member of.
func (s *club) onConnect(ctx context.Context, c *herald.Conn) error {
	tryAgain := &herald.CloseError{Code: herald.StatusTryAgainLater, Reason: "try again"}
	rooms, err := s.members.rooms(ctx, c.User())
	if err != nil {
		return tryAgain // the database is down: this is no refusal
	}
	for _, room := range rooms {
		if err := c.Join(ctx, "room:"+room); err != nil {
			return tryAgain
		}
	}
	return nil
}

// Who becomes a member is one on all devices: on those that are connected, on those that
// connect meanwhile, and on those that come later. Who may not gets 403.
func TestMembers(t *testing.T) {
	read, goOn, joined := make(chan bool), make(chan bool), make(chan bool)
	s := &club{rooms: rooms{"anna": {"7"}}}
	cluster := heraldtest.NewCluster(t, 2, herald.Config{OnConnect: func(ctx context.Context, c *herald.Conn) error {
		defer func() { joined <- true }()
		return s.onConnect(ctx, c)
	}})
	s.hub = cluster.Nodes[0].Hub
	connect := func(meanwhile func()) *heraldtest.Client {
		c := cluster.Connect(1, herald.Identity{User: "anna"})
		<-read
		meanwhile()
		goOn <- true
		<-joined
		return c
	}
	var meanwhile *heraldtest.Client
	s.members = &members{
		of:     make(map[string][]string),
		adding: func() { meanwhile = connect(func() {}) },
		read:   func() { read <- true; <-goOn },
	}
	before := connect(func() {})
	connecting := connect(func() {
		if code := s.post(t, "anna"); code != http.StatusOK {
			t.Errorf("anna joins: %d", code)
		}
	})
	after := connect(func() {})
	if code := s.post(t, "bert"); code != http.StatusForbidden {
		t.Errorf("bert joins: %d", code)
	}
	if err := s.hub.Send(t.Context(), herald.Group("room:7"), herald.Text("welcome")); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*heraldtest.Client{before, connecting, meanwhile, after} {
		c.Expect("welcome")
	}
}

// A node that does not answer keeps nobody from becoming a member on the others. If no
// node was asked, the user has to try again.
func TestMembersWithoutNode(t *testing.T) {
	cluster := heraldtest.NewCluster(t, 2, herald.Config{SendTimeout: 500 * time.Millisecond})
	s := &club{rooms: rooms{"anna": {"7"}}, hub: cluster.Nodes[0].Hub}
	s.members = &members{of: make(map[string][]string), adding: func() {}, read: func() {}}
	anna := cluster.Connect(0, herald.Identity{User: "anna"})
	cluster.Nodes[1].Bus.Cut()
	if code := s.post(t, "anna"); code != http.StatusOK {
		t.Errorf("while the other node does not answer: %d", code)
	}
	if err := s.hub.Send(t.Context(), herald.Group("room:7"), herald.Text("welcome")); err != nil {
		t.Fatal(err)
	}
	anna.Expect("welcome")
	cluster.Nodes[0].Bus.Cut()
	if code := s.post(t, "anna"); code != http.StatusServiceUnavailable {
		t.Errorf("while no node can be asked: %d", code)
	}
}

// A tenant is a customer whose users know nothing of other tenants' users.
// whoIs is Config.Authenticate.
func whoIs(tenantOf func(*http.Request) (tenant, user string, err error)) func(*http.Request) (herald.Identity, error) {
	return func(r *http.Request) (herald.Identity, error) {
		tenant, user, err := tenantOf(r)
		if err != nil {
			return herald.Identity{}, err
		}
		return herald.Identity{User: tenant + "/" + user, Groups: []string{tenant + "/all"}}, nil
	}
}

// of returns the targets of one tenant.
type of string

func (tenant of) user(id string) herald.Target    { return herald.User(string(tenant) + "/" + id) }
func (tenant of) group(name string) herald.Target { return herald.Group(string(tenant) + "/" + name) }
func (tenant of) everyone() herald.Target         { return tenant.group("all") }

// Two tenants have a user 42 each.
func TestTenants(t *testing.T) {
	cluster := heraldtest.NewCluster(t, 2, herald.Config{})
	identify := whoIs(func(r *http.Request) (string, string, error) {
		tenant, _, _ := strings.Cut(r.Host, ".")
		return tenant, r.URL.Query().Get("user"), nil
	})
	connect := func(host string) *heraldtest.Client {
		r, _ := http.NewRequestWithContext(t.Context(), "GET", "http://"+host+"/?user=42", nil)
		identity, err := identify(r)
		if err != nil {
			t.Fatal(err)
		}
		return cluster.Connect(0, identity)
	}
	acme, globex := connect("acme.example"), connect("globex.example")
	hub, ctx := cluster.Nodes[1].Hub, t.Context()
	for _, target := range []herald.Target{of("acme").user("42"), of("acme").everyone()} {
		if err := hub.Send(ctx, target, herald.Text("for acme")); err != nil {
			t.Fatal(err)
		}
		acme.Expect("for acme")
	}
	globex.ExpectNothing()
}
