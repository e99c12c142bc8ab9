package docs_test

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"testing"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/heraldtest"
)

// follow calls tell whenever somebody comes to a room or leaves it, until ctx is done.
func follow(ctx context.Context, hub *herald.Hub, room string, tell func(there map[string]herald.Session)) error {
	there := make(map[string]herald.Session)
	for p, err := range hub.Watch(ctx, room) {
		if err != nil {
			return err
		}
		for _, s := range p.Left {
			delete(there, s.ID)
		}
		for _, s := range p.Joined {
			there[s.ID] = s
		}
		tell(there)
	}
	return nil
}

// users returns the users of sessions, by the sessions' ids.
func users(sessions []herald.Session) map[string]string {
	names := make(map[string]string)
	for _, s := range sessions {
		names[s.ID] = s.User
	}
	return names
}

// A service on one node sees who is in a room on both.
func TestFollow(t *testing.T) {
	cluster := heraldtest.NewCluster(t, 2, herald.Config{})
	member := func(user string) herald.Identity { return herald.Identity{User: user, Groups: []string{"room:7"}} }
	ctx, cancel := context.WithCancel(t.Context())
	counts, ended := make(chan int), make(chan error, 1)
	go func() {
		ended <- follow(ctx, cluster.Nodes[0].Hub, "room:7", func(there map[string]herald.Session) { counts <- len(there) })
	}()
	want := func(n int) {
		t.Helper()
		if got := <-counts; got != n {
			t.Fatalf("%d are there, want %d", got, n)
		}
	}
	want(0)
	anna := cluster.Connect(0, member("anna"))
	want(1)
	cluster.Connect(1, member("bert"))
	want(2)
	cluster.Connect(1, herald.Identity{User: "carl"}) // elsewhere
	anna.Close()
	want(1)
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("it ended with %v", err)
	}
}

// A room is what a page knows: the names by the sessions' ids.
type room map[string]string

// await hears the client's messages until these are there.
func (r room) await(t *testing.T, c *heraldtest.Client, names ...string) {
	t.Helper()
	for !slices.Equal(slices.Sorted(maps.Values(r)), names) {
		var p struct{ Joined, Left room }
		if err := json.Unmarshal(c.Receive(), &p); err != nil {
			t.Fatal(err)
		}
		for id, name := range p.Left {
			if r[id] != name {
				t.Errorf("%s leaves, who was not there", name)
			}
			delete(r, id)
		}
		for id, name := range p.Joined {
			if _, there := r[id]; there {
				t.Errorf("%s joins twice", name)
			}
			r[id] = name
		}
	}
}

// Members on both nodes are told of each other, and of each of their tabs.
func TestTellMembers(t *testing.T) {
	cluster := heraldtest.NewCluster(t, 2, herald.Config{})
	member := func(user string) herald.Identity { return herald.Identity{User: user, Groups: []string{"room:7"}} }
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	for _, node := range cluster.Nodes {
		hub := node.Hub
		go func() {
			err := hub.TellMembers(ctx, "room:7", func(p herald.Presence) herald.Message {
				return herald.JSON(map[string]map[string]string{"joined": users(p.Joined), "left": users(p.Left)})
			})
			ended <- err
		}()
	}
	anna, bert := member("anna"), member("bert")
	tab1, there1 := cluster.Connect(0, anna), room{}
	there1.await(t, tab1, "anna")
	tab2 := cluster.Connect(1, anna)
	there1.await(t, tab1, "anna", "anna")
	phone, there2 := cluster.Connect(1, bert), room{}
	there2.await(t, phone, "anna", "anna", "bert")
	there1.await(t, tab1, "anna", "anna", "bert")
	tab2.Close()
	there2.await(t, phone, "anna", "bert")
	tab1.Close()
	there2.await(t, phone, "bert")
	cancel()
	for range 2 {
		if err := <-ended; err == nil {
			t.Error("it ended without an error")
		}
	}
}
