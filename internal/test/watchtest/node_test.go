// Package watchtest lets several nodes watch a group, while its members come and go
// and nodes and Redis fail. In the end each view equals Sessions. On the way no
// session is told twice.
package watchtest

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
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/test/servertest"
)

const (
	room     = "room"
	lease    = 2 * time.Second
	patience = time.Minute
)

// nodeEnv has the addresses of Redis and of the node. If it is set, the process
// runs that node.
const nodeEnv = "HERALD_WATCHTEST_NODE"

func TestMain(m *testing.M) {
	if env := os.Getenv(nodeEnv); env != "" {
		redisAddr, addr, _ := strings.Cut(env, " ")
		fmt.Fprintln(os.Stderr, runNode(redisAddr, addr))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// A node is a Hub that watches the room.
type node struct {
	*herald.Hub
	*view
}

// openNode opens a Hub, and watches the room until ctx is done.
func openNode(ctx context.Context, wg *sync.WaitGroup, redisAddr string) (node, error) {
	rdb := redis.NewClient(&redis.Options{Addr: redisAddr})
	hub, err := herald.New(herald.Config{
		Redis: rdb, Lease: lease, ProbeTimeout: time.Second, PingInterval: -1, HandshakeRatePerAddr: -1, HandshakeRatePerUser: -1, MaxHandshakes: -1,
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Authenticate: func(r *http.Request) (herald.Identity, error) {
			return herald.Identity{User: r.URL.Query().Get("user"), Groups: []string{room}}, nil
		},
	})
	if err != nil {
		rdb.Close()
		return node{}, err
	}
	n := node{hub, &view{there: make(map[string]bool)}}
	wg.Go(func() {
		n.watch(ctx, hub)
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		hub.Shutdown(end)
		rdb.Close()
	})
	return n, nil
}

// A view is what a watcher has been told.
type view struct {
	mu    sync.Mutex
	told  int // the number of Presences
	there map[string]bool
	wrong []string
}

func (v *view) watch(ctx context.Context, hub *herald.Hub) {
	for ctx.Err() == nil {
		v.mu.Lock()
		v.there = make(map[string]bool) // a new watch begins with an empty view
		v.mu.Unlock()
		for p, err := range hub.Watch(ctx, room) {
			if err != nil {
				v.take(p, err)
				break
			}
			v.take(p, nil)
		}
	}
}

// take records what was told, and what must not have been. The first list may fail.
func (v *view) take(p herald.Presence, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err != nil {
		if !errors.Is(err, herald.ErrBusDown) && !errors.Is(err, herald.ErrRegistryDown) && !errors.Is(err, context.Canceled) {
			v.wrong = append(v.wrong, err.Error())
		}
		return
	}
	v.told++
	for _, s := range p.Left {
		if !v.there[s.ID] {
			v.wrong = append(v.wrong, s.ID+" has left and was not there")
		}
		delete(v.there, s.ID)
	}
	for _, s := range p.Joined {
		if v.there[s.ID] {
			v.wrong = append(v.wrong, s.ID+" has joined twice")
		}
		v.there[s.ID] = true
	}
}

// A report is what a node says about itself.
type report struct {
	View, Sessions []string // their ids
	Told           int
	Wrong          []string
	Err            string // the error of Sessions
}

func (n node) report(ctx context.Context) report {
	sessions, err := n.Sessions(ctx, herald.Group(room))
	r := report{Err: fmt.Sprint(err)}
	for _, s := range sessions {
		r.Sessions = append(r.Sessions, s.ID)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for id := range n.there {
		r.View = append(r.View, id)
	}
	slices.Sort(r.View)
	slices.Sort(r.Sessions)
	r.Told, r.Wrong = n.told, slices.Clone(n.wrong)
	return r
}

// runNode runs a node in this process until it is killed.
func runNode(redisAddr, addr string) error {
	var wg sync.WaitGroup
	n, err := openNode(context.Background(), &wg, redisAddr)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("/ws", n)
	mux.HandleFunc("/report", func(w http.ResponseWriter, r *http.Request) {
		json.NewEncoder(w).Encode(n.report(r.Context()))
	})
	return http.Serve(listener, mux)
}

// A process is a node in a process of its own.
type process struct{ *servertest.Server }

func startProcess(t testing.TB, redisAddr string) process {
	addr := servertest.FreeAddr(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return process{servertest.Start(t, servertest.Command{
		Program: self, Addr: addr, Env: []string{nodeEnv + "=" + redisAddr + " " + addr},
		Ready: func() error { return servertest.Dial(addr) }, Patience: patience,
	})}
}

// report asks the process for a report.
func (p process) report(ctx context.Context) (r report) {
	request, err := http.NewRequestWithContext(ctx, "GET", "http://"+p.Addr+"/report", nil)
	if err != nil {
		return report{Err: err.Error()}
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return report{Err: err.Error()}
	}
	defer response.Body.Close()
	if err := json.NewDecoder(response.Body).Decode(&r); err != nil {
		return report{Err: err.Error()}
	}
	return r
}
