package natsbus_test

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/bus/natsbus"
	"github.com/heraldgo/herald/internal/test/load"
	"github.com/heraldgo/herald/internal/test/netproxy"
	"github.com/heraldgo/herald/internal/test/servertest"
)

// A split is two servers of one cluster whose only route a test can cut, with
// a Hub and its clients at each. No link of a Hub is touched by the cut, so
// that no Bus can know of it.
type split struct {
	testing.TB
	route   *netproxy.Proxy
	hubs    []*herald.Hub
	devices []*load.Device
	clients []*websocket.Conn
	reading sync.WaitGroup

	mu     sync.Mutex // guards the rest
	gaps   map[string][]load.Gap
	fences map[string]bool // by device and text: those that came
}

const splitUsers = 10

// newSplit starts it all. The second hub starts so much later than the first.
func newSplit(t *testing.T, later time.Duration) *split {
	t.Helper()
	s := &split{TB: t, gaps: make(map[string][]load.Gap), fences: make(map[string]bool)}
	at := servertest.FreeAddr(t)
	cluster := func(listen string, routes string) string {
		return config(t, fmt.Sprintf("cluster { name: test, listen: %q, no_advertise: true, routes: [%s] }", listen, routes))
	}
	first := servertest.NATS(t, "-c", cluster(at, ""))
	s.route = netproxy.Start(t, at)
	second := servertest.NATS(t, "-c", cluster(servertest.FreeAddr(t), strconv.Quote("nats://"+s.route.Addr)))
	options := &natsbus.Options{Prefix: "test." + rand.Text()}
	registry := herald.NewMemoryRegistry()
	for i, server := range []*servertest.Server{first, second} {
		if i > 0 {
			time.Sleep(later)
		}
		bus, err := natsbus.New("nats://"+server.Addr, options)
		if err != nil {
			t.Fatal(err)
		}
		s.start(i, herald.Config{Bus: bus, Registry: registry.Handle()})
	}
	return s
}

func (s *split) start(i int, config herald.Config) {
	s.Helper()
	var id string
	config.Name = fmt.Sprint("hub", i)
	config.PingInterval = -1
	config.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	config.Authenticate = func(r *http.Request) (herald.Identity, error) {
		q := r.URL.Query()
		return herald.Identity{User: q.Get("user"), Groups: q["group"]}, nil
	}
	config.OnGap = func(g herald.Gap) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.gaps[id] = append(s.gaps[id], load.NewGap(g))
	}
	s.mu.Lock() // for id
	hub, err := herald.New(config)
	if err != nil {
		s.Fatal(err)
	}
	id = hub.NodeID()
	s.mu.Unlock()
	s.hubs = append(s.hubs, hub)
	server := httptest.NewServer(hub)
	s.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		hub.Shutdown(ctx)
		server.Close()
	})
	for u := range splitUsers {
		d := &load.Device{Name: "device", User: load.UserName(u), Groups: load.Groups(u, splitUsers), Node: id}
		query := url.Values{"user": {d.User}, "group": d.Groups}
		conn, _, err := websocket.Dial(s.Context(), server.URL+"?"+query.Encode(), nil)
		if err != nil {
			s.Fatal(err)
		}
		d.Since = time.Now().UnixNano()
		s.devices = append(s.devices, d)
		s.clients = append(s.clients, conn)
		s.reading.Go(func() {
			for {
				_, data, err := conn.Read(context.Background())
				if err != nil {
					return
				}
				if r, ok := load.ParseReceipt(data); ok {
					d.Take(r)
					continue
				}
				s.mu.Lock()
				s.fences[d.String()+string(data)] = true
				s.mu.Unlock()
			}
		})
	}
	s.Cleanup(func() {
		for _, c := range s.clients {
			c.CloseNow()
		}
		s.reading.Wait()
	})
}

// reached waits until a message to everyone, sent by each hub, has come to
// every client.
func (s *split) reached(fence string) {
	s.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		for _, h := range s.hubs {
			h.Send(s.Context(), herald.Everyone(), herald.Text(fence+h.NodeID()))
		}
		missing := 0
		s.mu.Lock()
		for _, d := range s.devices {
			for _, h := range s.hubs {
				if !s.fences[d.String()+fence+h.NodeID()] {
					missing++
				}
			}
		}
		s.mu.Unlock()
		if missing == 0 {
			return
		}
		if time.Now().After(deadline) {
			s.Fatalf("%d deliveries are missing although the route is whole", missing)
		}
	}
}

// cut runs a load, cuts the route in the midst of it until over, and returns
// what became of every message once it can.
func (s *split) cut(over func()) (load.Tally, []error) {
	s.Helper()
	s.reached("before")
	stop := make(chan struct{})
	records := make([]map[string][]load.Record, len(s.hubs))
	var sending sync.WaitGroup
	for i, h := range s.hubs {
		order := load.Order{Sender: h.NodeID(), Senders: 2, Users: splitUsers, Pace: 20 * time.Millisecond}
		sending.Go(func() { records[i] = order.Run(context.Background(), h, stop) })
	}
	time.Sleep(time.Second) // of load before the cut, and after it
	s.route.Blackhole(true)
	over()
	s.route.Blackhole(false)
	s.route.Cut() // what has lost a byte is dead: the servers connect anew
	time.Sleep(time.Second)
	close(stop)
	sending.Wait()
	s.reached("after")
	account := load.Account{Records: make(map[string][]load.Record), Devices: s.devices}
	for _, of := range records {
		for sender, list := range of {
			account.Records[sender] = list
		}
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		account.Gaps = make(map[string][]load.Gap)
		s.mu.Lock()
		for node, gaps := range s.gaps {
			account.Gaps[node] = gaps
		}
		s.mu.Unlock()
		tally, faults := account.Settle()
		if len(faults) == 0 || time.Now().After(deadline) {
			return tally, faults
		}
	}
}

// phases is at how many phases of the nodes' renewals, relative to each other,
// a split is tried.
func phases(t *testing.T) int {
	n, err := strconv.Atoi(cmp.Or(os.Getenv("HERALD_SPLIT_PHASES"), "1"))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// If the route between two servers is cut, and no link of a Hub is, what
// does not come lies in a gap of the Hub whose clients miss it, be the cut
// short or long; and during a long one the Hubs are not healthy.
func TestSplitRoute(t *testing.T) {
	const renewals = 5 * time.Second // a third of the default Lease
	n := phases(t)
	for phase := range n {
		later := renewals * time.Duration(phase) / time.Duration(n)
		t.Run(fmt.Sprintf("short/%v", later), func(t *testing.T) {
			t.Parallel()
			s := newSplit(t, later)
			s.settle(s.cut(func() { time.Sleep(4 * time.Second) }))
		})
		t.Run(fmt.Sprintf("long/%v", later), func(t *testing.T) {
			t.Parallel()
			s := newSplit(t, later)
			s.settle(s.cut(s.awaitRed))
		})
	}
}

// awaitRed waits until no hub is healthy any more.
func (s *split) awaitRed() {
	s.Helper()
	deadline := time.Now().Add(patience)
	for _, h := range s.hubs {
		for h.Health() == nil {
			if time.Now().After(deadline) {
				s.Errorf("%s stays healthy", h.NodeID())
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
}

func (s *split) settle(tally load.Tally, faults []error) {
	s.Helper()
	s.Logf("%v, %d in no gap", tally, len(faults))
	for _, err := range faults[:min(len(faults), 3)] {
		s.Error(err)
	}
}
