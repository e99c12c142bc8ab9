package demo

import (
	"embed"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net/http"
	"time"
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

// servePage serves the page and its parts.
func servePage(mux *http.ServeMux) {
	for path, file := range map[string]string{
		"GET /{$}":      "page/index.html",
		"GET /chat.js":  "page/chat.js",
		"GET /chat.css": "page/chat.css",
	} {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			h := w.Header()
			h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
			h.Set("X-Content-Type-Options", "nosniff")
			h.Set("Cache-Control", "no-cache")
			http.ServeFileFS(w, r, page, file)
		})
	}
}

// serveNodes lists this process's nodes, and stops and starts them at the
// press of a button on a page of ours.
func serveNodes(mux *http.ServeMux, c *cluster) {
	mux.HandleFunc("GET /api/nodes", func(w http.ResponseWriter, r *http.Request) {
		writeJSON(w, http.StatusOK, map[string]any{"nodes": c.list()})
	})
	ours := http.NewCrossOriginProtection()
	mux.Handle("POST /api/nodes/{name}/stop", ours.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		writeDone(w, c.stop(r.PathValue("name")))
	})))
	mux.Handle("POST /api/nodes/{name}/start", ours.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		writeDone(w, c.start(r.Context(), r.PathValue("name")))
	})))
}

func writeDone(w http.ResponseWriter, err error) {
	switch {
	case err == nil:
		w.WriteHeader(http.StatusNoContent)
	case errors.Is(err, errUnknownNode):
		writeError(w, http.StatusNotFound, err.Error())
	case errors.Is(err, errWrongState):
		writeError(w, http.StatusConflict, err.Error())
	default:
		writeError(w, http.StatusServiceUnavailable, err.Error())
	}
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
