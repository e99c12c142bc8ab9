// Command notify is a shop: an ordinary REST service with a database and cookies, to
// which a Hub was added. Its customers see on every device when an order is shipped. A
// customer whose devices are all away gets a mail. README.md beside it says what to try.
package main

import (
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"log"
	"net/http"
	"os/signal"
	"syscall"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
)

func main() {
	addr := flag.String("addr", "localhost:8080", "where to serve")
	redisAddr := flag.String("redis", "", "a Redis, host:port; by default one inside this process")
	file := flag.String("db", "file:notify?mode=memory&cache=shared", "an SQLite database; by default in memory")
	only := flag.String("only", "", "run only the web service (web) or the worker (worker); by default both")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *addr, *redisAddr, *file, *only); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, addr, redisAddr, file, only string) error {
	if redisAddr == "" {
		embedded, err := miniredis.Run()
		if err != nil {
			return err
		}
		defer embedded.Close()
		redisAddr = embedded.Addr()
	}
	rdb := redis.NewClient(&redis.Options{Addr: redisAddr})
	defer rdb.Close()
	db, err := sql.Open("sqlite", file)
	if err != nil {
		return err
	}
	defer db.Close()
	store, err := newStore(ctx, db)
	if err != nil {
		return err
	}

	ended := make(chan error, 2)
	parts := 0
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if only != "worker" {
		parts++
		go func() { ended <- serve(ctx, addr, store, rdb) }()
	}
	if only != "web" {
		parts++
		go func() { ended <- work(ctx, store, rdb, logMailer{}) }()
	}
	for range parts {
		if e := <-ended; e != nil && !errors.Is(e, context.Canceled) {
			err = errors.Join(err, e)
		}
		cancel() // neither goes on without the other
	}
	return err
}

// serve runs the web service until ctx is done.
func serve(ctx context.Context, addr string, store *store, rdb *redis.Client) error {
	service, err := newService(store, rdb)
	if err != nil {
		return err
	}
	server := &http.Server{Addr: addr, Handler: service, ReadHeaderTimeout: 10 * time.Second}
	ended := make(chan error, 1)
	go func() { ended <- server.ListenAndServe() }()
	fmt.Printf("Open http://%s as anna or bert; the password is the name.\n", addr)
	select {
	case err = <-ended:
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	// The Hub first: http.Server does not close WebSocket connections.
	if e := errors.Join(service.hub.Shutdown(grace), server.Shutdown(grace)); e != nil {
		log.Print(e) // clients that did not go in time were cut: no failure of the service
	}
	return err
}
