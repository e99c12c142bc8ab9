package main

import (
	_ "embed"
	"encoding/json"
	"log"
	"net/http"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/client/js"
)

// A Message as the database has it.
type Message struct {
	ID   int    `json:"id"`
	Text string `json:"text"`
}

//go:embed page.html
var page []byte

// room is the service, without its Hub's route.
func room(db *Database, hub *herald.Hub) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /herald.min.js", js.Handler())
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { w.Write(page) })

	mux.HandleFunc("GET /messages", func(w http.ResponseWriter, r *http.Request) {
		var messages []Message
		position, err := hub.Position(r.Context()) // first where the log is
		if err == nil {
			messages, err = db.Last(r.Context(), 100) // and then the snapshot
		}
		if err != nil {
			http.Error(w, "try again", http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Cache-Control", "no-store")
		json.NewEncoder(w).Encode(map[string]any{"position": position, "messages": messages})
	})

	mux.HandleFunc("POST /messages", func(w http.ResponseWriter, r *http.Request) {
		m, err := db.Insert(r.Context(), r.FormValue("text")) // first the database, and then the others
		if err != nil {
			http.Error(w, "try again", http.StatusServiceUnavailable)
			return
		}
		if err := hub.Send(r.Context(), herald.Group("room"), herald.JSON(m)); err != nil {
			log.Print(err) // who is connected does not see it: send it again later
		}
	})
	return mux
}
