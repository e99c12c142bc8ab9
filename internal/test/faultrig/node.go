package faultrig

import (
	"bufio"
	"context"
	crand "crypto/rand"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/test/load"
)

// nodeEnv holds the settings of a node. If it is set, the process runs that node.
const nodeEnv = "HERALD_FAULTRIG_NODE"

// An OpenBus opens a Bus on a broker at addrs. via has the address of the node's
// own proxy to each of them.
type OpenBus func(addrs []string, via map[string]string) (herald.Bus, error)

// Main must be called first by a program that runs a trial, because its nodes are
// further processes of the program. In a node's process Main does not return. buses
// has the Buses besides Redis, by the Kind of their Broker.
func Main(buses map[string]OpenBus) {
	env := os.Getenv(nodeEnv)
	if env == "" {
		return
	}
	if err := runNode(env, buses); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// settings tell a node at its start what to do.
type settings struct {
	Name      string
	Redis     []string          // the addresses of one Redis, of the Sentinels, or of a Cluster
	Sentinel  string            // the master's name, if there are Sentinels
	Cluster   bool              // the addresses are a Cluster's
	Side      string            // the local address of its connections to Redis, if not any
	Kind      string            // the kind of its Bus, if that is not on Redis
	Broker    []string          // the broker's addresses
	Via       map[string]string // the addresses of proxies, by those of the servers behind them
	Lease     time.Duration
	Retention time.Duration // 0 means none
	Users     int
	Pace      time.Duration // between the messages of a sender
}

// A report is a line of a node's stdout, with one of these.
type report struct {
	URL    string // of the WebSocket route, in the first line
	Node   string // the Hub's id, with the URL
	Sender string // whose Record it is
	Record *load.Record
	Gap    *load.Gap
	Answer *string // the answer to a line of stdin, in their order: an error, or ""
}

// A node sends until it is told to stop. It reports each Send at once, so that
// little is unknown if it is killed.
type node struct {
	settings
	hub    *herald.Hub
	bursts int // so far

	mu  sync.Mutex
	out *json.Encoder
}

// senders is how many goroutines of a node send.
const senders = 3

// runNode returns when stdin is closed, so that no node outlives its trial.
func runNode(env string, buses map[string]OpenBus) error {
	n := &node{out: json.NewEncoder(os.Stdout)}
	if err := json.Unmarshal([]byte(env), &n.settings); err != nil {
		return err
	}
	config := herald.Config{
		Name: n.Name, Lease: n.Lease, Retention: n.Retention,
		Authenticate: func(r *http.Request) (herald.Identity, error) {
			q := r.URL.Query()
			return herald.Identity{User: q.Get("user"), Groups: q["group"]}, nil
		},
		OnGap: func(g herald.Gap) {
			gap := load.NewGap(g)
			n.report(report{Gap: &gap})
		},
		ProbeInterval: time.Second / 10,
		PingInterval:  -1, // a node that was paused must not take its clients for silent
		Logger:        slog.New(slog.NewTextHandler(os.Stderr, nil)),
		MaxHandshakes: -1, HandshakeRatePerAddr: -1, HandshakeRatePerUser: -1,
		Compression: true,
	}
	rdb := n.client()
	defer rdb.Close()
	var err error
	if open := buses[n.Kind]; open == nil {
		config.Redis = rdb
	} else if config.Bus, err = open(n.Broker, n.Via); err != nil {
		return err
	} else if config.Registry, err = herald.NewRedisRegistry(rdb, nil); err != nil {
		return err
	}
	if n.hub, err = herald.New(config); err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go http.Serve(l, n.hub)
	n.report(report{URL: "http://" + l.Addr().String() + "/", Node: n.hub.NodeID()})

	ctx, stop := context.WithCancel(context.Background())
	var loads sync.WaitGroup
	for i := range senders {
		loads.Go(func() { n.send(ctx, fmt.Sprint(n.hub.NodeID(), "/", i)) })
	}
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		answer := ""
		verb, text, _ := strings.Cut(lines.Text(), " ")
		if verb == "stop" {
			stop()
			loads.Wait()
		} else if err := n.do(verb, text); err != nil {
			answer = err.Error()
		}
		n.report(report{Answer: &answer})
	}
	stop()
	return nil
}

// do does what a line of stdin says.
func (n *node) do(verb, text string) error {
	switch verb {
	case "send":
		return n.hub.Send(context.Background(), herald.Everyone(), herald.Text(text))
	case "burst":
		return n.burst(text)
	case "health":
		return n.hub.Health()
	case "shutdown":
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		return n.hub.Shutdown(ctx)
	}
	return fmt.Errorf("unknown verb %q", verb)
}

// client returns a client for the node's Redis, through its proxies.
func (s *settings) client() redis.UniversalClient {
	dialer := &net.Dialer{}
	if s.Side != "" {
		dialer = &net.Dialer{Timeout: time.Second, LocalAddr: &net.TCPAddr{IP: net.ParseIP(s.Side)}}
	}
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		if via := s.Via[addr]; via != "" {
			addr = via
		}
		return dialer.DialContext(ctx, network, addr)
	}
	switch {
	case s.Cluster:
		return redis.NewClusterClient(&redis.ClusterOptions{Addrs: s.Redis, Dialer: dial})
	case s.Sentinel != "":
		return redis.NewFailoverClient(&redis.FailoverOptions{
			MasterName: s.Sentinel, SentinelAddrs: s.Redis, Dialer: dial,
			ReadTimeout: time.Second, // go-redis tries a Sentinel that is cut off eight times
		})
	}
	return redis.NewClient(&redis.Options{Addr: s.Redis[0], Dialer: dial})
}

func (n *node) report(r report) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.out.Encode(r)
}

// long is the padding of every other message of a sender. It makes the message long
// enough to be compressed.
var long = make([]byte, 600)

// send sends as one sender until ctx is done.
func (n *node) send(ctx context.Context, sender string) {
	pace := time.NewTicker(n.Pace)
	defer pace.Stop()
	for i := 0; ; i++ {
		select {
		case <-pace.C:
			n.sendOne(sender, i, pickTarget(n.Users), long[i%2*len(long):])
		case <-ctx.Done():
			return
		}
	}
}

func (n *node) sendOne(sender string, i int, target string, padding []byte) {
	r := load.Send(context.Background(), n.hub, sender, i, target, padding)
	n.report(report{Sender: sender, Record: &r})
}

// burst sends messages as fast as it can, from many goroutines. The text has their
// number, their size and the target; the target "u" means any user.
func (n *node) burst(text string) error {
	var count, padding int
	var target string
	if _, err := fmt.Sscan(text, &count, &padding, &target); err != nil {
		return err
	}
	n.bursts++
	noise := make([]byte, padding) // nothing compresses this
	crand.Read(noise)
	const parallel = 20
	var sending sync.WaitGroup
	for s := range parallel {
		sending.Go(func() {
			for i := range (count + s) / parallel {
				to := target
				if to == "u" {
					to = "u:" + load.UserName(rand.IntN(n.Users))
				}
				n.sendOne(fmt.Sprintf("%s/burst%d.%d", n.hub.NodeID(), n.bursts, s), i, to, noise)
			}
		})
	}
	sending.Wait()
	return nil
}

// pickTarget picks mostly a user, sometimes a group, two groups that overlap, or
// everyone.
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
