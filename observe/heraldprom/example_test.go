package heraldprom_test

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/observe/heraldprom"
)

func authenticate(*http.Request) (herald.Identity, error) { return herald.Identity{User: "42"}, nil }

func ExampleNewCollector() {
	hub, err := herald.New(herald.Config{Authenticate: authenticate})
	if err != nil {
		log.Fatal(err)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(heraldprom.NewCollector(hub))
	mux := http.NewServeMux()
	mux.Handle("/ws", hub)
	mux.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))

	w := httptest.NewRecorder()
	mux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	body, err := io.ReadAll(w.Body)
	if err != nil {
		log.Fatal(err)
	}
	for line := range strings.Lines(string(body)) {
		if strings.HasPrefix(line, "herald_connections") {
			fmt.Print(line)
		}
	}
	// Output: herald_connections 0
}

// The page's program is the example's.
func TestPage(t *testing.T) {
	page, err := os.ReadFile("../../docs/watching.md")
	if err != nil {
		t.Fatal(err)
	}
	example, err := os.ReadFile("example_test.go")
	if err != nil {
		t.Fatal(err)
	}
	_, program, _ := strings.Cut(string(page), "```go\n")
	program, _, _ = strings.Cut(program, "```")
	if program = strings.ReplaceAll("\n"+program, "\n", "\n\t"); len(program) < 100 || !strings.Contains(string(example), strings.TrimSpace(program)) {
		t.Errorf("the example does not run what the page has:\n%s", program)
	}
}
