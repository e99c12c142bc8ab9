package heraldprom

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/heraldgo/herald"
)

// A scrape takes so much CPU of a node with so many connections. What a delivery
// takes is in bench.
func BenchmarkScrape(b *testing.B) {
	for _, conns := range []int{0, 1_000, 4_000} {
		b.Run(fmt.Sprint("conns=", conns), func(b *testing.B) {
			hub, err := herald.New(herald.Config{
				HandshakeRatePerAddr: -1, HandshakeRatePerUser: -1, MaxConnsPerUser: -1,
				Authenticate: func(*http.Request) (herald.Identity, error) { return herald.Identity{User: "42"}, nil },
			})
			if err != nil {
				b.Fatal(err)
			}
			server := httptest.NewServer(hub)
			defer server.Close()
			defer hub.Shutdown(context.Background())
			for range conns {
				c, _, err := websocket.Dial(b.Context(), server.URL, nil)
				if err != nil {
					b.Fatal(err)
				}
				defer c.CloseNow()
			}
			registry := prometheus.NewRegistry()
			registry.MustRegister(NewCollector(hub))
			metrics := promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
			request := httptest.NewRequest(http.MethodGet, "/metrics", nil)

			before := cpu(b)
			for b.Loop() {
				w := httptest.NewRecorder()
				metrics.ServeHTTP(w, request)
			}
			b.ReportMetric(float64((cpu(b)-before).Microseconds())/float64(b.N), "cpu-µs/scrape")
		})
	}
}

// cpu returns what this process has used.
func cpu(b *testing.B) time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
