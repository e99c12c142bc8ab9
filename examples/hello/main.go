package main

import (
	"context"
	"log"
	"net/http"
	"os"
	"time"

	"github.com/heraldgo/herald"
	"github.com/redis/go-redis/v9"
)

func main() {
	config := herald.Config{
		Authenticate: func(r *http.Request) (herald.Identity, error) {
			return herald.Identity{User: r.FormValue("user")}, nil // ask your session here
		},
		OnMessage: func(ctx context.Context, c *herald.Conn, m herald.Message) {
			if err := c.Hub().Send(ctx, herald.User(c.User()), m); err != nil { // to every device
				log.Print(err)
			}
		},
	}
	if addr := os.Getenv("REDIS"); addr != "" { // without a Redis this node is alone
		config.Redis = redis.NewClient(&redis.Options{Addr: addr})
	}
	hub, err := herald.New(config)
	if err != nil {
		log.Fatal(err)
	}
	http.Handle("/ws", hub)
	server := &http.Server{Addr: ":8080", ReadHeaderTimeout: 10 * time.Second}
	log.Fatal(server.ListenAndServe())
}
