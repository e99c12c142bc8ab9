package demo

import (
	"errors"
	"net/http"

	"github.com/heraldgo/herald"
)

// serveControls lists what this process runs, and stops and starts it at the press of
// a button on a page of ours. tabs are those whose network can be cut; nil means none.
func serveControls(mux *http.ServeMux, c *cluster, tabs *tabs) {
	mux.HandleFunc("GET /api/nodes", func(w http.ResponseWriter, r *http.Request) {
		writeJSON(w, http.StatusOK, struct {
			Nodes []nodeInfo `json:"nodes"`
			Redis string     `json:"redis"` // "" if it is not of this process
			Tabs  bool       `json:"tabs"`  // their network can be cut here
		}{c.list(), c.store.now(), tabs != nil})
	})
	ours := http.NewCrossOriginProtection()
	on := func(path string, do func(r *http.Request) error) {
		mux.Handle("POST "+path, ours.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			writeDone(w, do(r))
		})))
	}
	on("/api/nodes/{name}/stop", func(r *http.Request) error { return c.stop(r.PathValue("name")) })
	on("/api/nodes/{name}/start", func(r *http.Request) error { return c.start(r.Context(), r.PathValue("name")) })
	on("/api/redis/stop", func(*http.Request) error {
		return c.control("Redis was stopped. What you write waits until it runs again", c.store.stopRedis)
	})
	on("/api/redis/start", func(*http.Request) error {
		return c.control("Redis runs again, with its data", func() error { return c.store.startRedis(false) })
	})
	on("/api/redis/start-empty", func(*http.Request) error {
		return c.control("Redis runs again, and has lost everything", func() error { return c.store.startRedis(true) })
	})
	if tabs != nil {
		on("/api/tabs/{tab}/cut", func(r *http.Request) error { return tabs.cut(r.PathValue("tab")) })
		on("/api/tabs/{tab}/restore", func(r *http.Request) error { return tabs.restore(r.PathValue("tab")) })
	}
}

// control does something to Redis, and tells everybody here.
func (c *cluster) control(told string, do func() error) error {
	err := do()
	if err == nil {
		c.tell(herald.JSON(frame{Type: "redis", Text: told, State: c.store.now()}))
	}
	return err
}

func writeDone(w http.ResponseWriter, err error) {
	switch {
	case err == nil:
		w.WriteHeader(http.StatusNoContent)
	case errors.Is(err, errUnknownNode), errors.Is(err, errUnknownTab):
		writeError(w, http.StatusNotFound, err.Error())
	case errors.Is(err, errWrongState), errors.Is(err, errOthersRedis):
		writeError(w, http.StatusConflict, err.Error())
	default:
		writeError(w, http.StatusServiceUnavailable, err.Error())
	}
}
