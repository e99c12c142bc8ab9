package attacktest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald"
)

// The first byte of a message tells the service what to do.
const (
	amplify = 'e' // sends 256 KB to the sender
	relay   = 'r' // sends the message to the room
	deliver = 't' // "t <user> <text>": sends the text to the user, or "x <text>: <error>" back
)

const room = "room"

// A hello is the first line of a node's stdout.
type hello struct {
	Addr    string // of the WebSocket route
	Control string // of reports
}

// A report is what a node knows of itself.
type report struct {
	Goroutines     int
	GoroutinesPeak int   // since the last report
	Memory         int64 // that Go has from the system
	MemoryPeak     int64 // since the last report
	Authenticates  int64
	Onlines        int64
	Offlines       int64
	Stats          map[string]float64 // by the names of herald.Stats
}

// A service is the application on the node. It believes everybody, and does without
// limit what a message asks for.
type service struct {
	hub                              *herald.Hub
	authenticates, onlines, offlines atomic.Int64
	goroutines, memory               atomic.Int64 // the most since the last report
}

// runNode is the main function of a node's process. It returns when the test closes
// its stdin, so that no node outlives its test.
func runNode(o order) error {
	rdb := redis.NewClient(&redis.Options{Addr: o.Redis})
	defer rdb.Close()
	s := &service{}
	hub, err := herald.New(herald.Config{
		Redis:              rdb,
		Authenticate:       s.identify,
		OnConnect:          s.onConnect,
		OnMessage:          s.onMessage,
		OnOnline:           func(string) { s.onlines.Add(1) },
		OnOffline:          func(string) { s.offlines.Add(1) },
		RejectAfterUpgrade: o.Setting.RejectAfterUpgrade,
		Compression:        o.Setting.Compression,
		Logger:             slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		return err
	}
	s.hub = hub
	door, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	control, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: hub, ReadHeaderTimeout: 10 * time.Second}
	go server.Serve(door)
	go http.Serve(control, http.HandlerFunc(s.report))
	go s.watch()
	if err := json.NewEncoder(os.Stdout).Encode(hello{door.Addr().String(), control.Addr().String()}); err != nil {
		return err
	}
	io.Copy(io.Discard, os.Stdin)
	return nil
}

// identify believes the query.
func (s *service) identify(r *http.Request) (herald.Identity, error) {
	s.authenticates.Add(1)
	q := r.URL.Query()
	id := herald.Identity{User: q.Get("user")}
	if id.User == "" {
		return id, errors.New("nobody")
	}
	if q.Has("slow") {
		select {
		case <-r.Context().Done():
			return id, r.Context().Err()
		case <-time.After(20 * time.Second):
		}
	}
	if q.Has("groups") {
		id.Groups = strings.Split(q.Get("groups"), ",")
	}
	if q.Has("meta") {
		id.Meta = map[string]string{"meta": q.Get("meta")}
	}
	return id, nil
}

func (s *service) onConnect(_ context.Context, c *herald.Conn) error {
	if strings.HasPrefix(c.User(), "unwelcome") {
		return fmt.Errorf("no place for %s", c.User())
	}
	return nil
}

func (s *service) onMessage(ctx context.Context, c *herald.Conn, m herald.Message) {
	if len(m.Bytes()) == 0 {
		return
	}
	switch m.Bytes()[0] {
	case amplify:
		c.Send(herald.Binary(make([]byte, 256<<10)))
	case relay:
		s.hub.Send(ctx, herald.Group(room), herald.Binary(m.Bytes()))
	case deliver:
		words := strings.SplitN(m.String(), " ", 3)
		if len(words) < 3 {
			return
		}
		if err := s.hub.Send(ctx, herald.User(words[1]), herald.Text(words[2])); err != nil {
			c.Send(herald.Text(fmt.Sprintf("x %s: %v", words[2], err)))
		}
	}
}

// watch records the peaks.
func (s *service) watch() {
	for range time.Tick(20 * time.Millisecond) {
		s.goroutines.Store(max(s.goroutines.Load(), int64(runtime.NumGoroutine())))
		s.memory.Store(max(s.memory.Load(), goMemory()))
	}
}

// goMemory returns how many bytes Go has from the system and has not given back.
// Unlike the resident memory it does not contain the race detector's memory, which
// is never given back.
func goMemory() int64 {
	samples := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(samples)
	return int64(samples[0].Value.Uint64() - samples[1].Value.Uint64())
}

// report answers with a report. With ?collect it first collects the garbage and
// gives it back, so that the report shows what the process keeps.
func (s *service) report(w http.ResponseWriter, r *http.Request) {
	collect := r.URL.Query().Has("collect")
	if collect {
		debug.FreeOSMemory()
	}
	all := report{
		Goroutines:     runtime.NumGoroutine(),
		GoroutinesPeak: int(s.goroutines.Swap(0)),
		Memory:         goMemory(),
		MemoryPeak:     s.memory.Swap(0),
		Authenticates:  s.authenticates.Load(),
		Onlines:        s.onlines.Load(),
		Offlines:       s.offlines.Load(),
	}
	stats, err := json.Marshal(s.hub.Stats())
	if err == nil {
		var counters map[string]any
		err = json.Unmarshal(stats, &counters)
		all.Stats = make(map[string]float64)
		for name, value := range counters {
			if n, ok := value.(float64); ok {
				all.Stats[name] = n
			}
		}
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	json.NewEncoder(w).Encode(all)
}
