package docs_test

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

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
