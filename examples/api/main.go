// Command api is a service to which programs in other languages send. README.md beside
// it says how to run them.
package main

import (
	"cmp"
	"crypto/rand"
	"fmt"
	"log"
	"net/http"
	"os"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/heraldapi"
)

func main() {
	addr := os.Getenv("REDIS")
	if addr == "" {
		embedded, err := miniredis.Run()
		if err != nil {
			log.Fatal(err)
		}
		addr = embedded.Addr()
	}
	key := cmp.Or(os.Getenv("HERALD_KEY"), rand.Text())
	handler, err := service(redis.NewClient(&redis.Options{Addr: addr}), key)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("export HERALD_API=http://localhost:8080/api HERALD_KEY=%s\n", key)
	server := &http.Server{Addr: "localhost:8080", Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	log.Fatal(server.ListenAndServe())
}

// service is all that a node needs: users connect to /ws, programs send by /api.
func service(rdb *redis.Client, key string) (http.Handler, error) {
	hub, err := herald.New(herald.Config{
		Redis: rdb,
		Authenticate: func(r *http.Request) (herald.Identity, error) {
			return herald.Identity{User: r.FormValue("user")}, nil // ask your session here
		},
	})
	if err != nil {
		return nil, err
	}
	api, err := heraldapi.New(heraldapi.Config{Hub: hub, Redis: rdb, Keys: []string{key}})
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("/ws", hub)
	mux.Handle("/api/", http.StripPrefix("/api", api))
	return mux, nil
}
