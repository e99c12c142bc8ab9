// Command loadbalancer is a node that runs behind a load balancer, which has TLS and
// gives it one path. README.md beside it says what else is here.
package main

import (
	"cmp"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/client/js"
)

//go:embed page.html
var page []byte

func main() {
	stop, cancel := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer cancel()
	if err := serve(stop); err != nil {
		log.Fatal(err)
	}
}

// serve runs the node until stop is done.
func serve(stop context.Context) error {
	grace, err := duration("GRACE", 25*time.Second)
	if err != nil {
		return err
	}
	retention, err := duration("RETENTION", 5*time.Minute)
	if err != nil {
		return err
	}
	rdb := redis.NewClient(&redis.Options{Addr: cmp.Or(os.Getenv("REDIS"), "localhost:6379")})
	defer rdb.Close()
	hub, err := herald.New(herald.Config{
		Redis: rdb, Retention: retention, ClientAddr: clientAddr,
		Authenticate: func(r *http.Request) (herald.Identity, error) { // ask your session here
			return herald.Identity{User: r.FormValue("user"), Meta: map[string]string{"addr": clientAddr(r)}}, nil
		},
		OnMessage: func(ctx context.Context, c *herald.Conn, m herald.Message) {
			if err := c.Hub().Send(ctx, herald.Everyone(), m); err != nil {
				log.Print(err)
			}
		},
	})
	if err != nil {
		return err
	}
	server := &http.Server{
		Addr: cmp.Or(os.Getenv("ADDR"), ":8080"), Handler: routes(hub),
		ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 16 << 10,
	}
	ended := make(chan error, 1)
	go func() { ended <- server.ListenAndServe() }()
	select {
	case err = <-ended:
	case <-stop.Done():
	}
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	// The Hub first: http.Server does not close WebSocket connections.
	if e := errors.Join(hub.Shutdown(ctx), server.Shutdown(ctx)); e != nil {
		log.Print(e) // clients that did not go in time were cut: no failure of the node
	}
	return err
}

// routes are the ones below /live/, which the load balancer passes on, and the probe,
// which is not for the outside.
func routes(hub *herald.Hub) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /live/ws", hub)
	mux.Handle("GET /live/herald.min.js", js.Handler())
	mux.HandleFunc("GET /live/{$}", func(w http.ResponseWriter, _ *http.Request) { w.Write(page) })
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if err := hub.Health(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		}
	})
	return mux
}

// clientAddr is what the proxy says: the last element. The client may have written the
// others.
func clientAddr(r *http.Request) string {
	all := strings.Join(r.Header.Values("X-Forwarded-For"), ",")
	return strings.TrimSpace(all[strings.LastIndex(all, ",")+1:])
}

// duration reads a variable of the environment, such as 25s.
func duration(name string, otherwise time.Duration) (time.Duration, error) {
	text := os.Getenv(name)
	if text == "" {
		return otherwise, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", name, err)
	}
	return d, nil
}
