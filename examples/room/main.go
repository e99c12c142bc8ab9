package main

import (
	"cmp"
	"context"
	"log"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/heraldgo/herald"
)

// A Database stands for yours.
type Database struct {
	mu       sync.Mutex
	messages []Message
}

func (d *Database) Insert(ctx context.Context, text string) (Message, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	m := Message{len(d.messages) + 1, text}
	d.messages = append(d.messages, m)
	return m, nil
}

func (d *Database) Last(ctx context.Context, n int) ([]Message, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]Message{}, d.messages[max(0, len(d.messages)-n):]...), nil
}

func main() {
	hub, err := herald.New(herald.Config{ // for more than one node set Redis here
		Retention: 5 * time.Minute,
		Authenticate: func(r *http.Request) (herald.Identity, error) {
			return herald.Identity{User: "visitor", Groups: []string{"room"}}, nil // ask your session here
		},
		RejectAfterUpgrade: true, // so that a page learns that its login has ended
	})
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /ws", hub)
	mux.Handle("/", room(&Database{}, hub))
	addr := cmp.Or(os.Getenv("ADDR"), "localhost:8080")
	log.Print("serving http://" + addr)
	log.Fatal(http.ListenAndServe(addr, mux))
}
