package docs_test

import (
	"context"
	"encoding/json"
	"errors"
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

func users(sessions []herald.Session) []string {
	names := []string{}
	for _, s := range sessions {
		names = append(names, s.User)
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

// Members on both nodes are told of each other.
func TestTellMembers(t *testing.T) {
	cluster := heraldtest.NewCluster(t, 2, herald.Config{})
	member := func(user string) herald.Identity { return herald.Identity{User: user, Groups: []string{"room:7"}} }
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	for _, node := range cluster.Nodes {
		hub := node.Hub
		go func() {
			err := hub.TellMembers(ctx, "room:7", func(p herald.Presence) herald.Message {
				return herald.JSON(map[string][]string{"joined": users(p.Joined), "left": users(p.Left)})
			})
			ended <- err
		}()
	}
	anna := cluster.Connect(0, member("anna"))
	anna.Expect(`{"joined":["anna"],"left":[]}`)
	bert := cluster.Connect(1, member("bert"))
	anna.Expect(`{"joined":["bert"],"left":[]}`)
	know := make(map[string]bool)
	for !know["anna"] || !know["bert"] { // at once, or one after the other
		var p struct{ Joined, Left []string }
		if err := json.Unmarshal(bert.Receive(), &p); err != nil || len(p.Left) > 0 {
			t.Fatalf("bert was told %+v, %v", p, err)
		}
		for _, user := range p.Joined {
			if know[user] {
				t.Errorf("%s has joined twice", user)
			}
			know[user] = true
		}
	}
	anna.Close()
	bert.Expect(`{"joined":[],"left":["anna"]}`)
	cancel()
	for range 2 {
		if err := <-ended; err == nil {
			t.Error("it ended without an error")
		}
	}
}
