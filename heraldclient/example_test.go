package heraldclient_test

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/heraldclient"
)

func Example() {
	// A Hub that greets. Yours is elsewhere.
	hub, err := herald.New(herald.Config{
		Authenticate: func(r *http.Request) (herald.Identity, error) {
			return herald.Identity{User: "42"}, nil
		},
		OnConnect: func(_ context.Context, c *herald.Conn) error { return c.Send(herald.Text("Hello, " + c.User())) },
		Logger:    slog.New(slog.DiscardHandler),
	})
	if err != nil {
		log.Fatal(err)
	}
	defer hub.Shutdown(context.Background())
	server := httptest.NewServer(hub)
	defer server.Close()

	client, err := heraldclient.New(heraldclient.Config{URL: server.URL})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	for {
		event, err := client.Receive(context.Background())
		if err != nil {
			log.Fatal(err)
		}
		switch e := event.(type) {
		case heraldclient.Message:
			fmt.Println(string(e.Data)) // and save e.Position(), to go on from there
			return
		case heraldclient.Gap:
			fmt.Println("fetch what is newer from the service")
		case heraldclient.Disconnected:
			fmt.Println("it comes back by itself:", e.Err)
		}
	}
	// Output: Hello, 42
}
