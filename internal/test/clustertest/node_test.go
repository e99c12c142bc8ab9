package clustertest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/test/load"
)

// nodeEnv holds the settings of a node. If it is set, the test binary runs that
// node instead of tests.
const nodeEnv = "HERALD_CLUSTERTEST_NODE"

// settings tell a node's process at its start what to do.
type settings struct {
	Name          string
	Redis         string // address; empty if there are Sentinels
	Master        string // the master's name
	Sentinels     []string
	Via           map[string]string // the addresses of proxies, by those of the servers behind them
	Lease         time.Duration
	OfflineDelay  time.Duration
	ProbeInterval time.Duration
	ProbeTimeout  time.Duration
}

// A request is a line on a node's stdin, and a response one on its stdout. A
// response has its request's id. Many requests may be open at once.
type request struct {
	ID   int
	Op   string
	Args json.RawMessage
}

type response struct {
	ID     int
	Error  string
	Result any
}

// hello is the first line of a node's stdout.
type hello struct {
	Node string // the id of the Hub
	URL  string // of its WebSocket route
}

// A process is a node: a Hub, its HTTP server, and the lines from and to the test.
type process struct {
	hub  *herald.Hub
	load loads

	mu       sync.Mutex // guards the rest
	gaps     []gap
	onlines  []string
	offlines []string
	out      *json.Encoder
}

// runNode is the main function of a node's process. It returns when the test closes
// the node's stdin, so that no node outlives its test.
func runNode(env string) error {
	var s settings
	if err := json.Unmarshal([]byte(env), &s); err != nil {
		return err
	}
	p := &process{out: json.NewEncoder(os.Stdout)}
	rdb := s.client()
	defer rdb.Close()
	hub, err := herald.New(herald.Config{
		Redis:         rdb,
		Name:          s.Name,
		Authenticate:  identify,
		OnConnect:     func(_ context.Context, c *herald.Conn) error { return c.Send(herald.Text("id " + c.ID())) },
		OnGap:         p.onGap,
		OnOnline:      func(user string) { p.note(&p.onlines, user) },
		OnOffline:     func(user string) { p.note(&p.offlines, user) },
		Lease:         s.Lease,
		OfflineDelay:  s.OfflineDelay,
		ProbeInterval: s.ProbeInterval,
		ProbeTimeout:  s.ProbeTimeout,
		PingInterval:  -1, // a node that was paused must not take its clients for silent
		Logger:        slog.New(slog.NewTextHandler(os.Stderr, nil)),

		// All devices have one address.
		MaxHandshakes: -1, HandshakeRatePerAddr: -1, HandshakeRatePerUser: -1,
	})
	if err != nil {
		return err
	}
	p.hub = hub
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go http.Serve(l, hub)
	p.out.Encode(hello{hub.NodeID(), "ws://" + l.Addr().String()})

	lines := bufio.NewReader(os.Stdin)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return nil
		}
		var r request
		if err := json.Unmarshal(line, &r); err != nil {
			return err
		}
		go p.serve(r)
	}
}

func (s *settings) client() *redis.Client {
	if s.Sentinels == nil {
		return redis.NewClient(&redis.Options{Addr: s.Redis})
	}
	return redis.NewFailoverClient(&redis.FailoverOptions{
		MasterName:    s.Master,
		SentinelAddrs: s.Sentinels,
		Dialer: func(ctx context.Context, network, addr string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, s.Via[addr])
		},
	})
}

// identify believes the query.
func identify(r *http.Request) (herald.Identity, error) {
	q := r.URL.Query()
	return herald.Identity{User: q.Get("user"), Device: q.Get("device"), Platform: "test", Groups: q["group"]}, nil
}

func (p *process) onGap(g herald.Gap) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gaps = append(p.gaps, load.NewGap(g))
}

func (p *process) note(list *[]string, user string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	*list = append(*list, user)
}

func (p *process) serve(r request) {
	result, err := p.do(context.Background(), r)
	answer := response{ID: r.ID, Result: result}
	if err != nil {
		answer.Error = err.Error()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.out.Encode(answer)
}

func (p *process) do(ctx context.Context, r request) (any, error) {
	switch r.Op {
	case "send":
		return nil, withArgs(r, func(m message) error {
			return p.hub.Send(ctx, load.ParseTarget(m.Target), herald.Text(m.Text))
		})
	case "load":
		var records map[string][]record
		err := withArgs(r, func(o load.Order) error {
			records = p.load.run(ctx, p.hub, o)
			return nil
		})
		return records, err
	case "stop":
		p.load.stop()
		return nil, nil
	case "join":
		return nil, withArgs(r, func(o joinOrder) error { return p.join(ctx, o) })
	case "sessions":
		var sessions []herald.Session
		err := withArgs(r, func(users []string) (err error) {
			sessions, err = p.hub.Sessions(ctx, herald.User(users...))
			return err
		})
		return sessions, err
	case "online":
		var online map[string]bool
		err := withArgs(r, func(users []string) (err error) {
			online, err = p.hub.Online(ctx, users...)
			return err
		})
		return online, err
	case "health":
		return nil, p.hub.Health()
	case "stats":
		return p.hub.Stats(), nil
	case "seen":
		p.mu.Lock()
		defer p.mu.Unlock()
		return seen{slices.Clone(p.gaps), slices.Clone(p.onlines), slices.Clone(p.offlines)}, nil
	case "shutdown":
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		return nil, p.hub.Shutdown(ctx)
	}
	return nil, errors.New("unknown op " + r.Op)
}

// seen has the arguments of a node's callbacks.
type seen struct {
	Gaps              []gap
	Onlines, Offlines []string
}

type message struct{ Target, Text string }

// withArgs calls f with the request's arguments.
func withArgs[T any](r request, f func(T) error) error {
	var args T
	if err := json.Unmarshal(r.Args, &args); err != nil {
		return err
	}
	return f(args)
}

// A joinOrder is a number of groups. A user joins each of them, one after the
// other, and a message is sent to it at once.
type joinOrder struct {
	Users []string
	From  int // the number of the first group
	Count int
}

func (p *process) join(ctx context.Context, o joinOrder) error {
	for i := o.From; i < o.From+o.Count; i++ {
		group := fmt.Sprint("joined-", i)
		if err := p.hub.Join(ctx, herald.User(o.Users[i%len(o.Users)]), group); err != nil {
			return fmt.Errorf("join %d: %w", i, err)
		}
		if err := p.hub.Send(ctx, herald.Group(group), herald.Text(fmt.Sprint("join ", i))); err != nil {
			return fmt.Errorf("send %d: %w", i, err)
		}
	}
	return nil
}
