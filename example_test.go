package herald_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald"
)

// whoIs stands for a service's own way to know its users.
func whoIs(r *http.Request) (herald.Identity, error) {
	user := r.URL.Query().Get("user")
	if user == "" {
		return herald.Identity{}, errors.New("no user")
	}
	return herald.Identity{User: user, Platform: r.URL.Query().Get("platform")}, nil
}

// dial connects as a client does.
func dial(server *httptest.Server, query string) *websocket.Conn {
	conn, _, err := websocket.Dial(context.Background(), server.URL+"/ws?"+query, nil)
	if err != nil {
		log.Fatal(err)
	}
	return conn
}

func read(conn *websocket.Conn) string {
	_, data, err := conn.Read(context.Background())
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// A Hub on a route, and a message to every device of a user.
func Example() {
	hub, err := herald.New(herald.Config{Authenticate: whoIs}) // with Redis: rdb, on any number of nodes
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/ws", hub)
	server := httptest.NewServer(mux)
	defer server.Close()

	phone, laptop := dial(server, "user=42&platform=ios"), dial(server, "user=42&platform=web")
	ctx := context.Background()
	hub.Send(ctx, herald.User("42"), herald.Text("hello"))
	hub.Send(ctx, herald.User("42").On("ios"), herald.JSON(map[string]int{"badge": 3}))
	fmt.Println(read(phone), read(laptop), read(phone))

	ctx, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	hub.Shutdown(ctx)
	// Output: hello hello {"badge":3}
}

// Several nodes, each with the same Redis. This is all that makes them one.
func ExampleNew() {
	rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:6379"})
	hub, err := herald.New(herald.Config{
		Redis:        rdb,
		Authenticate: whoIs,
		Admit:        herald.MaxPerUser(5),
		OnMessage: func(ctx context.Context, c *herald.Conn, m herald.Message) {
			c.Hub().Send(ctx, herald.Group("room-7").Except(c.ID()), m)
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	http.Handle("/ws", hub)
}

// A worker or a cron job sends without taking connections.
func ExampleHub_Send() {
	hub, err := herald.New(herald.Config{}) // Redis: rdb
	if err != nil {
		log.Fatal(err)
	}
	defer hub.Shutdown(context.Background())
	err = hub.Send(context.Background(), herald.User("42"), herald.Text("your report is ready"))
	switch {
	case errors.Is(err, herald.ErrUnknown):
		fmt.Println("it may have been sent: ask before sending again")
	case err != nil:
		fmt.Println("it was not sent:", err)
	default:
		fmt.Println("sent")
	}
	// Output: sent
}

// Groups: whoever joins gets all messages that are sent after Join has returned.
func ExampleHub_Join() {
	hub, _ := herald.New(herald.Config{Authenticate: whoIs})
	server := httptest.NewServer(hub)
	defer server.Close()
	ann, bob := dial(server, "user=ann"), dial(server, "user=bob")

	ctx := context.Background()
	hub.Join(ctx, herald.User("ann", "bob"), "room-7")
	hub.Send(ctx, herald.Group("room-7").ExceptUser("ann"), herald.Text("hi, all but ann"))
	hub.Send(ctx, herald.Group("room-7"), herald.Text("hi, all"))
	fmt.Println(read(ann))
	fmt.Println(read(bob))
	sessions, _ := hub.Sessions(ctx, herald.Group("room-7"))
	fmt.Println(len(sessions), "in the room")

	ctx, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	hub.Shutdown(ctx)
	// Output:
	// hi, all
	// hi, all but ann
	// 2 in the room
}

// Disconnect reaches every node, and spares clients that log in after it.
func ExampleHub_Disconnect() {
	hub, _ := herald.New(herald.Config{Authenticate: whoIs})
	server := httptest.NewServer(hub)
	defer server.Close()
	web := dial(server, "user=42&platform=web")

	ctx := context.Background()
	hub.Disconnect(ctx, herald.User("42").On("web"), herald.StatusReplaced, "signed in elsewhere")
	_, _, err := web.Read(ctx)
	fmt.Println(websocket.CloseStatus(err))
	online, _ := hub.Online(ctx, "42")
	fmt.Println("online:", online["42"])

	hub.Shutdown(ctx)
	// Output:
	// StatusCode(4409)
	// online: false
}

// Two nodes in one process and no broker, for tests of code that makes its hubs
// itself.
func ExampleMemoryNetwork() {
	network, registry := herald.NewMemoryNetwork(), herald.NewMemoryRegistry()
	node := func() *herald.Hub {
		hub, err := herald.New(herald.Config{Bus: network.Bus(), Registry: registry.Handle(), Authenticate: whoIs})
		if err != nil {
			log.Fatal(err)
		}
		return hub
	}
	one, two := node(), node()
	server := httptest.NewServer(two)
	defer server.Close()
	phone := dial(server, "user=42")

	ctx := context.Background()
	one.Send(ctx, herald.User("42"), herald.Text("hello from the other node"))
	fmt.Println(read(phone))

	ctx, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	one.Shutdown(ctx)
	two.Shutdown(ctx)
	// Output: hello from the other node
}

// The README's program is the one in examples/hello, which builds and runs, and it
// is short.
func TestReadmeProgram(t *testing.T) {
	read := func(file string) string {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	_, code, _ := strings.Cut(read("README.md"), "```go\n")
	code, _, _ = strings.Cut(code, "```")
	if code != read("examples/hello/main.go") {
		t.Error("the first program of README.md is not examples/hello/main.go")
	}
	if n := strings.Count(code, "\n"); n > 35 {
		t.Errorf("the program has %d lines, more than 35", n)
	}
}
