package resumetest_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/test/load"
)

// processEnv holds the settings of a node: with it the test binary is that node
// and runs no tests.
const processEnv = "HERALD_RESUMETEST_NODE"

func TestMain(m *testing.M) {
	env := os.Getenv(processEnv)
	if env == "" {
		os.Exit(m.Run())
	}
	if err := runProcess(env); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// settings are what a node's process is told at its start.
type settings struct {
	Name      string
	Redis     string            // its address; empty if there are Sentinels
	Master    string            // its name
	Sentinels []string          // their addresses
	Via       map[string]string // addresses of proxies, by those of servers
	Lease     time.Duration
	Retention time.Duration // 0: as a build without it
	Users     int
	Pace      time.Duration // between the messages of a sender
}

// A report is a line of a node's stdout. It has one of these.
type report struct {
	URL    string // of the WebSocket route: the first line
	Node   string // the Hub's id, with the URL
	Sender string // of the Record
	Record *load.Record
	Gap    *load.Gap
	Answer *string // to a line of stdin, in their order: an error, or ""
}

// A process is a node, which sends until it is told to stop. What it has sent is
// told at once, so that little is unknown if it is killed.
type process struct {
	settings
	hub *herald.Hub

	mu  sync.Mutex
	out *json.Encoder
}

// senders is how many goroutines of a node send.
const senders = 3

// runProcess ends when the test closes stdin, so that no node outlives its test.
func runProcess(env string) error {
	p := &process{out: json.NewEncoder(os.Stdout)}
	if err := json.Unmarshal([]byte(env), &p.settings); err != nil {
		return err
	}
	rdb := p.client()
	defer rdb.Close()
	var err error
	p.hub, err = herald.New(herald.Config{
		Redis: rdb, Name: p.Name, Lease: p.Lease, Retention: p.Retention,
		Authenticate: func(r *http.Request) (herald.Identity, error) {
			q := r.URL.Query()
			return herald.Identity{User: q.Get("user"), Groups: q["group"]}, nil
		},
		OnGap: func(g herald.Gap) {
			gap := load.NewGap(g)
			p.report(report{Gap: &gap})
		},
		ProbeInterval: time.Second / 10,
		PingInterval:  -1, // a node that was paused shall not find its clients silent
		Logger:        slog.New(slog.NewTextHandler(os.Stderr, nil)),
		MaxHandshakes: -1, HandshakeRatePerAddr: -1, HandshakeRatePerUser: -1,
	})
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go http.Serve(l, p.hub)
	p.report(report{URL: "http://" + l.Addr().String() + "/", Node: p.hub.NodeID()})

	ctx, stop := context.WithCancel(context.Background())
	var loads sync.WaitGroup
	for i := range senders {
		loads.Go(func() { p.send(ctx, fmt.Sprint(p.hub.NodeID(), "/", i)) })
	}
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		verb, text, _ := strings.Cut(lines.Text(), " ")
		var err error
		switch verb {
		case "stop":
			stop()
			loads.Wait()
		case "send":
			err = p.hub.Send(context.Background(), herald.Everyone(), herald.Text(text))
		case "health":
			err = p.hub.Health()
		case "shutdown":
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			err = p.hub.Shutdown(ctx)
			cancel()
		}
		answer := ""
		if err != nil {
			answer = err.Error()
		}
		p.report(report{Answer: &answer})
	}
	stop()
	return nil
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

func (p *process) report(r report) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.out.Encode(r)
}

func (p *process) send(ctx context.Context, sender string) {
	pace := time.NewTicker(p.Pace)
	defer pace.Stop()
	for n := 0; ; n++ {
		select {
		case <-pace.C:
		case <-ctx.Done():
			return
		}
		r := load.Send(context.Background(), p.hub, sender, n, pickTarget(p.Users), 0)
		p.report(report{Sender: sender, Record: &r})
	}
}

// pickTarget picks a user mostly, and a group, or two that overlap, or everyone.
func pickTarget(users int) string {
	i := rand.IntN(users)
	groups := load.Groups(i, users)
	switch n := rand.IntN(40); {
	case n == 0:
		return "*"
	case n < 5:
		return "g:" + groups[rand.IntN(2)]
	case n < 8:
		return "g:" + strings.Join(groups, ",")
	case n < 12:
		return "u:" + load.UserName(i) + "," + load.UserName(rand.IntN(users))
	default:
		return "u:" + load.UserName(i)
	}
}
