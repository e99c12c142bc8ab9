package main

import (
	"bytes"
	"compress/flate"
	"encoding/json"
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

// testRedis starts a Redis for the test.
func testRedis(t *testing.T) *redisServer {
	if servertest.Find("redis-server") == "" {
		servertest.Missing(t, "redis-server", "redis-server")
	}
	redis, err := startRedis()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(redis.stop)
	return redis
}

var few = sizes{users: 20, bursts: 1, burst: 3, singles: 2, small: 200, big: 100, latency: 50, spread: 100, tls: 100, quiet: 500}

// TestRound measures every contestant that is here once, with a few clients,
// and sees that each figure is there and nothing was lost.
func TestRound(t *testing.T) {
	redis := testRedis(t)
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
	redis := testRedis(t)
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

var fewCompressed = compressSizes{idle: 20, members: 10, messages: 100, broadcasts: 5}

// TestCompress measures every contestant that is here once, without compression and with
// it. Whatever is delivered is compared with what was sent.
func TestCompress(t *testing.T) {
	redis := testRedis(t)
	texts, err := newTexts()
	if err != nil {
		t.Fatal(err)
	}
	defer texts.remove()
	for _, kind := range compressing {
		t.Run(kind, func(t *testing.T) {
			if kind == "socket.io" {
				// Even under CI=true: no plain Debian has the packages of npm.
				if ready, err := socketIOReady(); err != nil || !ready {
					t.Skip("MISSING: Socket.IO needs Node, and npm ci in the directory socketio, so it did not run")
				}
			}
			seen := make(map[string]figures)
			for _, k := range []string{kind, kind + deflateSuffix} {
				var err error
				if seen[k], err = measureCompression(k, fewCompressed, texts, redis); err != nil {
					t.Fatalf("%s: %v", k, err)
				}
				if n := seen[k]["lost"]; n != 0 {
					t.Errorf("%s lost %v messages", k, n)
				}
				for _, f := range compressFigures() {
					if _, ok := seen[k][f.key]; !ok {
						t.Errorf("%s has no figure for %s", k, f.name)
					}
				}
			}
			for _, key := range []string{"user1k.bytes", "user4k.bytes", "group1k.bytes", "group4k.bytes"} {
				without, with := seen[kind][key], seen[kind+deflateSuffix][key]
				if without < 1000 || with < without/5 || with > without*4/5 {
					t.Errorf("%s: %v without compression, %v with it", key, without, with)
				}
			}
		})
	}
}

// Bodies are JSON of their size, which JavaScript writes as they are, and no two of them
// are the same. A body that came with one byte changed, or without its end, is noticed.
func TestBodies(t *testing.T) {
	for _, size := range bodySizes {
		bs := newBodies(size.bytes)
		if len(bs) != bodyCount {
			t.Errorf("%s: %d bodies", size.name, len(bs))
		}
		seen := make(map[string]bool)
		for i, body := range bs {
			var compact bytes.Buffer
			if err := json.Compact(&compact, []byte(body)); err != nil || len(body) != size.bytes || compact.String() != body || seen[body] {
				t.Fatalf("%s: body %d has %d bytes, %v: %s", size.name, i, len(body), err, body)
			}
			seen[body] = true
		}
		now := time.Now()
		p := bs.payload(make([]byte, size.bytes), bodyCount+7, now)
		frame := `42["m",` + p.text + `]`
		if n := bs.spoilt([]byte(frame + frame)); n != 0 {
			t.Errorf("%s: %d of two good messages are spoilt", size.name, n)
		}
		for _, bad := range []string{frame[:len(frame)-3], strings.Replace(frame, `"room"`, `"ro0m"`, 1), p.text[1:]} {
			if n := bs.spoilt([]byte(frame + bad)); n != 1 {
				t.Errorf("%s: %d are spoilt of a good message and %q", size.name, n, bad)
			}
		}
	}
}

// An inflater takes messages that refer to those before, and messages in fragments.
func TestInflater(t *testing.T) {
	if _, err := agreed(""); err == nil {
		t.Error("a server that declines is accepted")
	}
	for _, answer := range []string{"permessage-deflate", "permessage-deflate; server_no_context_takeover"} {
		f, err := agreed(answer)
		if err != nil {
			t.Fatal(err)
		}
		if f.keeps != (answer == "permessage-deflate") {
			t.Errorf("%s: keeps is %t", answer, f.keeps)
		}
		var packed bytes.Buffer
		w, _ := flate.NewWriter(&packed, flate.BestCompression)
		c := &client{inflater: f}
		for i, body := range newBodies(1024)[:100] {
			packed.Reset()
			if !f.keeps {
				w.Reset(&packed)
			}
			w.Write([]byte(body))
			w.Flush()
			b := bytes.TrimSuffix(packed.Bytes(), []byte(flushed))
			if _, whole, err := c.unpack(opText|compressed, b[:100]); whole || err != nil {
				t.Fatalf("message %d, first fragment: %t, %v", i, whole, err)
			}
			if got, whole, err := c.unpack(opMore|final, b[100:]); !whole || err != nil || string(got) != body {
				t.Fatalf("message %d: %q, %t, %v, want %q", i, got, whole, err, body)
			}
		}
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
