package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/heraldgo/herald/internal/test/servertest"
)

// TestMain lets the tests start nodes, which are this program.
func TestMain(m *testing.M) {
	if kind := os.Getenv(envKind); kind != "" {
		if err := serve(kind, os.Getenv(envRedis), os.Getenv(envTLS) != ""); err != nil {
			fmt.Fprintln(os.Stderr, kind+":", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func TestPayload(t *testing.T) {
	now := time.Now()
	frame := append([]byte(`[{"data":"`), makePayload(newPayload(100), 7, now).bytes...)
	frame = append(append(frame, `"},{"data":"`...), makePayload(newPayload(0), 1<<31, now).text...)
	var numbers []int
	findMessages(frame, func(number int, at int64) {
		numbers = append(numbers, number)
		if at != now.UnixNano() {
			t.Errorf("message %d: time %d, want %d", number, at, now.UnixNano())
		}
	})
	if len(numbers) != 2 || numbers[0] != 7 || numbers[1] != 1<<31 {
		t.Errorf("found %v", numbers)
	}
}

// A contestant that died in some rounds has the medians of the others; what it
// never lived to measure is no row.
func TestMedians(t *testing.T) {
	m := medians(map[string][]figures{
		"herald": {{"idle.rss": 1, "storm.cpu": 5}, {"idle.rss": 3, "storm.cpu": 5}, {"idle.rss": 2, "storm.cpu": 5}},
		"floor":  {{}, {"idle.rss": 4}, {"idle.rss": 6}},
	})
	rows := compare(m, true)
	if want := (row{"resident memory a connection, idle", "KB", 2, 5, "floor", 0.4}); len(rows) != 1 || rows[0] != want {
		t.Errorf("got %+v, want %+v alone", rows, want)
	}
}

var few = sizes{users: 20, bursts: 1, burst: 3, singles: 2, small: 200, big: 100, latency: 50, spread: 100, tls: 100, quiet: 500}

// TestRound measures every contestant that is here once, with a few clients,
// and sees that each figure is there and nothing was lost.
func TestRound(t *testing.T) {
	if servertest.Find("redis-server") == "" {
		servertest.Missing(t, "redis-server", "redis-server")
	}
	redis, err := startRedis()
	if err != nil {
		t.Fatal(err)
	}
	defer redis.stop()
	for kind := range makers {
		t.Run(kind, func(t *testing.T) {
			seen, err := measure(kind, few, redis, "")
			if err != nil {
				t.Fatal(err)
			}
			if n := seen["user128.lost"]; n != 0 {
				t.Errorf("%v messages were lost", n)
			}
			for _, f := range figureList {
				if _, ok := seen[f.key]; !ok && kind != "floor" {
					t.Errorf("no figure for %s", f.name)
				}
			}
		})
	}
}

// TestHistory measures each that keeps once, and sees that what was missed comes.
func TestHistory(t *testing.T) {
	if servertest.Find("redis-server") == "" {
		servertest.Missing(t, "redis-server", "redis-server")
	}
	redis, err := startRedis()
	if err != nil {
		t.Fatal(err)
	}
	defer redis.stop()
	for _, kind := range keepers {
		t.Run(kind, func(t *testing.T) {
			seen, err := measureHistory(kind, few, redis, "")
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range historyFigures {
				if _, ok := seen[f.key]; !ok && (kind == "herald-resume" || kind == "centrifuge-history") {
					t.Errorf("no figure for %s", f.name)
				}
			}
		})
	}
}

// TestScale takes the steps of -scale that need no lease to run out, with a few clients
// in two processes.
func TestScale(t *testing.T) {
	if servertest.Find("redis-server") == "" {
		servertest.Missing(t, "redis-server", "redis-server")
	}
	w, err := openWorld(4, 30, spareFiles+20)
	if err != nil {
		t.Fatal(err)
	}
	defer w.stop()
	if len(w.crowds) != 2 {
		t.Errorf("%d processes of clients, want 2", len(w.crowds))
	}
	for _, s := range w.steps() {
		if s.name == "a node killed" || strings.HasPrefix(s.name, "idle") {
			continue
		}
		if err := w.step(s.name, s.do); err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
	}
}

// The picture has a colour for each contestant.
func TestColours(t *testing.T) {
	for _, kind := range contestants {
		if colours[kind] == "" {
			t.Errorf("%s has none", kind)
		}
	}
}

// RESULTS.md has every figure, and what the README shows is in it.
func TestREADME(t *testing.T) {
	table := func(file string) []string {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		_, rows, _ := strings.Cut(string(b), "\n| figure ")
		rows, _, _ = strings.Cut("| figure "+rows, "\n\n")
		return strings.Split(strings.TrimSpace(rows), "\n")
	}
	const head = 2 // the names of the columns, and the line below them
	results, readme := table("RESULTS.md"), table("../README.md")
	if len(results) < head+len(figureList) {
		t.Errorf("RESULTS.md has %d figures of %d", len(results)-head, len(figureList))
	}
	if len(readme) < head+5 {
		t.Errorf("README.md shows %d figures", len(readme)-head)
	}
	for _, row := range readme {
		if !slices.Contains(results, row) {
			t.Errorf("README.md has a row that RESULTS.md has not: %s", row)
		}
	}
}
