// Command frameworks is one service with net/http, chi, gin or echo: a login by cookie or
// by token, which the Hub takes over. README.md beside it says what to try.
package main

import (
	"cmp"
	"crypto/rand"
	"flag"
	"fmt"
	"log"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"
)

// frameworks make the service's routes, each with a router of its own.
var frameworks = map[string]func(*service) http.Handler{
	"net/http": withNetHTTP, "chi": withChi, "gin": withGin, "echo": withEcho,
}

func main() {
	names := slices.Sorted(maps.Keys(frameworks))
	with := flag.String("with", "net/http", "which router to use: "+strings.Join(names, ", "))
	addr := flag.String("addr", "localhost:8080", "where to serve")
	flag.Parse()
	routes, ok := frameworks[*with]
	if !ok {
		log.Fatalf("-with %s: must be one of %s", *with, strings.Join(names, ", "))
	}
	// All nodes must have the same key, or a login holds on one node only.
	s, err := newService([]byte(cmp.Or(os.Getenv("KEY"), rand.Text())), 15*time.Minute)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s serves http://%s\n", *with, *addr)
	server := &http.Server{Addr: *addr, Handler: protect(routes(s)), ReadHeaderTimeout: 10 * time.Second}
	log.Fatal(server.ListenAndServe())
}

// protect refuses what pages of other origins send with the user's cookie. The Hub checks
// the origin of its own requests, which are GETs.
func protect(h http.Handler) http.Handler { return http.NewCrossOriginProtection().Handler(h) }
