package demo

import (
	"embed"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"time"

	"github.com/heraldgo/herald/client/js"
)

//go:embed page
var page embed.FS

// newServer returns a server with the limits that one on the internet needs.
func newServer(h http.Handler) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       60 * time.Second,
		ErrorLog:          log.New(io.Discard, "", 0), // says what clients did wrong
	}
}

// servePage serves the page and its parts, and herald's client for browsers.
func servePage(mux *http.ServeMux) {
	for path, file := range map[string]string{
		"GET /{$}":       "page/index.html",
		"GET /chat.css":  "page/chat.css",
		"GET /chat.js":   "page/chat.js",
		"GET /dom.js":    "page/dom.js",
		"GET /log.js":    "page/log.js",
		"GET /outbox.js": "page/outbox.js",
		"GET /side.js":   "page/side.js",
		"GET /tab.js":    "page/tab.js",
	} {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			h := w.Header()
			h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
			h.Set("X-Content-Type-Options", "nosniff")
			h.Set("Cache-Control", "no-cache")
			http.ServeFileFS(w, r, page, file)
		})
	}
	mux.Handle("GET /herald.js", js.Handler())
}

func writeError(w http.ResponseWriter, status int, text string) {
	writeJSON(w, status, map[string]string{"error": text})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}
