package heraldprom

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/heraldgo/herald"
)

// A scrape takes so much CPU of a node with so many connections.
func BenchmarkScrape(b *testing.B) {
	for _, conns := range []int{0, 1_000, 4_000} {
		b.Run(fmt.Sprint("conns=", conns), func(b *testing.B) {
			_, scrape := busyHub(b, conns)
			before := cpu(b)
			for b.Loop() {
				scrape()
			}
			b.ReportMetric(float64((cpu(b)-before).Microseconds())/float64(b.N), "cpu-µs/scrape")
		})
	}
}

// A node delivers 10,000 messages a second to 1,000 connections, in turns one second
// in which it is scraped once, and one in which it is not: the median CPU of a
// delivery in each, that of the clients with it, and their ratio.
func BenchmarkScraped(b *testing.B) {
	const conns, rate = 1_000, 10_000
	hub, scrape := busyHub(b, conns)
	message := herald.Text(strings.Repeat("x", 128))
	second := func(work func()) float64 {
		before, start := cpu(b), time.Now()
		work()
		for i := range rate {
			time.Sleep(time.Until(start.Add(time.Duration(i) * time.Second / rate)))
			if err := hub.Send(b.Context(), herald.User(strconv.Itoa(i%conns)), message); err != nil {
				b.Fatal(err)
			}
		}
		return float64((cpu(b) - before).Nanoseconds()) / rate / 1000
	}
	var with, without, ratios []float64
	for n := range b.N {
		works := []func(){func() {}, scrape}
		if n%2 > 0 {
			slices.Reverse(works)
		}
		took := []float64{second(works[0]), second(works[1])}
		if n%2 > 0 {
			slices.Reverse(took)
		}
		without, with, ratios = append(without, took[0]), append(with, took[1]), append(ratios, took[1]/took[0])
	}
	b.ReportMetric(median(without), "cpu-µs/delivery")
	b.ReportMetric(median(with), "scraped-cpu-µs/delivery")
	b.ReportMetric(median(ratios), "ratio")
}

// busyHub returns a Hub with so many connections, each of a user of its own, whose
// clients read all that comes, and what scrapes it.
func busyHub(b *testing.B, conns int) (hub *herald.Hub, scrape func()) {
	hub, err := herald.New(herald.Config{
		HandshakeRatePerAddr: -1,
		Authenticate: func(r *http.Request) (herald.Identity, error) {
			return herald.Identity{User: r.URL.Query().Get("user")}, nil
		},
	})
	if err != nil {
		b.Fatal(err)
	}
	server := httptest.NewServer(hub)
	var reading sync.WaitGroup
	b.Cleanup(func() {
		hub.Shutdown(context.Background())
		reading.Wait()
		server.Close()
	})
	for i := range conns {
		c, _, err := websocket.Dial(b.Context(), server.URL+"?user="+strconv.Itoa(i), nil)
		if err != nil {
			b.Fatal(err)
		}
		reading.Go(func() {
			for {
				if _, _, err := c.Read(context.Background()); err != nil {
					return
				}
			}
		})
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(NewCollector(hub))
	metrics := promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
	request := httptest.NewRequest(http.MethodGet, "/metrics", nil)
	return hub, func() { metrics.ServeHTTP(httptest.NewRecorder(), request) }
}

func median(values []float64) float64 {
	slices.Sort(values)
	return (values[(len(values)-1)/2] + values[len(values)/2]) / 2
}

// cpu returns what this process has used.
func cpu(b *testing.B) time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
