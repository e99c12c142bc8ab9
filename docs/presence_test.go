package docs_test

import (
	"context"
	"encoding/json"
	"errors"
	"log"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

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

// tell tells the members of a room on this node who is in it, until ctx is done.
func tell(ctx context.Context, hub *herald.Hub, room string) {
	for {
		err := hub.TellMembers(ctx, room, func(p herald.Presence) herald.Message {
			return herald.JSON(map[string]map[string]string{"joined": users(p.Joined), "left": users(p.Left)})
		})
		if ctx.Err() != nil || errors.Is(err, herald.ErrClosed) {
			return
		}
		log.Printf("%s is not told who is in it: %v", room, err) // the Bus or the Registry is down
		time.Sleep(time.Second)
	}
}

// tellRooms tells the members on this node of all rooms that have some, until ctx is done.
// A room is told at most a second after its first member here has come.
func tellRooms(ctx context.Context, hub *herald.Hub) {
	told := make(map[string]context.CancelFunc)
	for ctx.Err() == nil {
		here := make(map[string]bool)
		for c := range hub.Conns() {
			for _, group := range c.Groups() {
				if strings.HasPrefix(group, "room:") {
					here[group] = true
				}
			}
		}
		for room := range here {
			if told[room] == nil {
				ctx, stop := context.WithCancel(ctx)
				told[room] = stop
				go tell(ctx, hub, room)
			}
		}
		for room, stop := range told {
			if !here[room] {
				stop()
				delete(told, room)
			}
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
	}
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

// Members on both nodes are told of each other, and of each of their tabs, also while
// their node empties itself.
func TestTellMembers(t *testing.T) {
	cluster := heraldtest.NewCluster(t, 2, herald.Config{ShutdownDelay: patience})
	member := func(user string) herald.Identity { return herald.Identity{User: user, Groups: []string{"room:7"}} }
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	for _, node := range cluster.Nodes {
		running.Go(func() { tell(ctx, node.Hub, "room:7") })
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
	draining := cluster.Nodes[1]
	running.Go(func() { draining.Hub.Shutdown(ctx) })
	draining.AwaitHealth(herald.ErrDraining)
	tab1.Close()
	there2.await(t, phone, "bert")
	cancel()
	running.Wait()
}

// Rooms that begin later are told too, however their members come in, and again after
// they have been empty.
func TestTellRooms(t *testing.T) {
	cluster := heraldtest.NewCluster(t, 2, herald.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	for _, node := range cluster.Nodes {
		running.Go(func() { tellRooms(ctx, node.Hub) })
	}
	hub := cluster.Nodes[0].Hub
	regroup := func(how func(context.Context, herald.Target, ...string) error, user, room string) {
		t.Helper()
		if err := how(ctx, herald.User(user), room); err != nil {
			t.Fatal(err)
		}
	}
	anna, there := cluster.Connect(1, herald.Identity{User: "anna"}), room{}
	regroup(hub.Join, "anna", "room:7") // from the other node
	there.await(t, anna, "anna")
	bert := cluster.Connect(0, herald.Identity{User: "bert", Groups: []string{"room:7"}})
	room{}.await(t, bert, "anna", "bert")
	there.await(t, anna, "anna", "bert")
	regroup(hub.Leave, "anna", "room:7")
	time.Sleep(2 * time.Second) // her node has seen that the room is empty there
	regroup(hub.Join, "anna", "room:7")
	room{}.await(t, anna, "anna", "bert")

	cancel()
	running.Wait()
}

// A room is told as soon as the Bus is back.
func TestTellAgain(t *testing.T) {
	cluster := heraldtest.NewCluster(t, 1, herald.Config{SendTimeout: 500 * time.Millisecond})
	failed := make(chan string, 100)
	log.SetOutput(lines(failed))
	t.Cleanup(func() { log.SetOutput(os.Stderr) })
	cluster.Nodes[0].Bus.Cut()
	cluster.Nodes[0].AwaitHealth(herald.ErrBusDown)
	var running sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	running.Go(func() { tell(ctx, cluster.Nodes[0].Hub, "room:7") })
	if line := <-failed; !strings.Contains(line, herald.ErrBusDown.Error()) {
		t.Errorf("it failed with %q", line)
	}
	cluster.Nodes[0].Bus.Heal()
	cluster.Nodes[0].AwaitHealth(nil)
	anna := cluster.Connect(0, herald.Identity{User: "anna", Groups: []string{"room:7"}})
	room{}.await(t, anna, "anna")
	cancel()
	running.Wait()
}

// lines gets what is logged.
type lines chan string

func (l lines) Write(line []byte) (int, error) {
	l <- string(line)
	return len(line), nil
}
