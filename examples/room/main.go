package main

import (
	"cmp"
	_ "embed"
	"encoding/json"
	"log"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/client/js"
	"github.com/redis/go-redis/v9"
)

// A Message as the database has it.
type Message struct {
	ID   int    `json:"id"`
	Text string `json:"text"`
}

// A Database stands for yours.
type Database struct {
	mu       sync.Mutex
	messages []Message
}

func (d *Database) Insert(text string) Message {
	d.mu.Lock()
	defer d.mu.Unlock()
	m := Message{len(d.messages) + 1, text}
	d.messages = append(d.messages, m)
	return m
}

func (d *Database) Last(n int) []Message {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]Message{}, d.messages[max(0, len(d.messages)-n):]...)
}

//go:embed page.html
var page []byte

// room is the whole service.
func room(db *Database, hub *herald.Hub) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /ws", hub)
	mux.Handle("GET /herald.min.js", js.Handler())
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { w.Write(page) })

	mux.HandleFunc("GET /messages", func(w http.ResponseWriter, r *http.Request) {
		position, err := hub.Position(r.Context()) // first where the log is
		if err != nil {
			http.Error(w, "try again", http.StatusServiceUnavailable)
			return
		}
		messages := db.Last(100) // and then the snapshot
		w.Header().Set("Cache-Control", "no-store")
		json.NewEncoder(w).Encode(map[string]any{"position": position, "messages": messages})
	})

	mux.HandleFunc("POST /messages", func(w http.ResponseWriter, r *http.Request) {
		m := db.Insert(r.FormValue("text")) // first the database, and then the others
		if err := hub.Send(r.Context(), herald.Group("room"), herald.JSON(m)); err != nil {
			log.Print(err) // who is connected does not see it: send it again later
		}
	})
	return mux
}

func main() {
	config := herald.Config{
		Retention: 5 * time.Minute,
		Authenticate: func(r *http.Request) (herald.Identity, error) {
			return herald.Identity{User: "visitor", Groups: []string{"room"}}, nil // ask your session here
		},
	}
	if addr := os.Getenv("REDIS"); addr != "" { // without a Redis this node is alone
		config.Redis = redis.NewClient(&redis.Options{Addr: addr})
	}
	hub, err := herald.New(config)
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(http.ListenAndServe(cmp.Or(os.Getenv("ADDR"), "localhost:8080"), room(&Database{}, hub)))
}
