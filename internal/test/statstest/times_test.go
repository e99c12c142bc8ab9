package statstest_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/test/redistest"
	"github.com/heraldgo/herald/internal/test/wsraw"
)

// stick connects a client that reads nothing, and fills its queue until a write
// blocks.
func (n *node) stick(user string, message herald.Message) (*wsraw.Conn, *herald.Conn) {
	n.t.Helper()
	ws, _ := n.dial(user, nil, 256<<10)
	if ws == nil {
		n.t.Fatal("refused")
	}
	await(n.t, "its Conn", func() bool { return n.conn(user) != nil })
	c := n.conn(user)
	await(n.t, "a write that waits, and a queue behind it", func() bool {
		s := c.Stats()
		if s.Queued < 48 {
			c.Send(message)
		}
		return s.WritingFor > 0 && s.Queued >= 48
	})
	return ws, c
}

// A message in the queue grows older even if the writes before it do not block for
// long.
func TestOldest(t *testing.T) {
	n := newNode(t, herald.Config{WriteTimeout: 10 * patience, PingInterval: -1, QueueBytes: 64 << 20})
	ws, c := n.stick("slow", herald.Binary(make([]byte, 256<<10)))
	next := func() {
		t.Helper()
		queued := c.Stats().Queued
		await(t, "the next write", func() bool {
			if _, err := ws.ReadMessage(); err != nil {
				t.Fatal(err)
			}
			s := c.Stats()
			return s.Queued < queued && s.WritingFor > 0
		})
	}
	const old = 300 * time.Millisecond
	next() // from then on a message is measured
	await(t, "an old message", func() bool { return c.Stats().Oldest > old })
	next()
	if s := c.Stats(); s.Oldest < old || n.Stats().OldestQueued < old {
		t.Errorf("of %d messages the oldest is %v, the Hub's %v", s.Queued, s.Oldest, n.Stats().OldestQueued)
	}
	for c.Stats().Queued > 0 {
		if _, err := ws.ReadMessage(); err != nil {
			t.Fatal(err)
		}
	}
	if s := n.Stats(); s.OldestQueued != 0 {
		t.Errorf("with nothing queued the oldest is %v", s.OldestQueued)
	}
}

// longer returns how many values of h are above d.
func longer(h herald.Histogram, d time.Duration) (n uint64) {
	for i, count := range h.Buckets {
		if i > 0 && h.Bound(i-1) >= d {
			n += count
		}
	}
	return n
}

// A lag is measured after each heartbeat, up to the socket. So it shows a client
// that reads nothing for a while.
func TestLag(t *testing.T) {
	n := newNode(t, herald.Config{ProbeInterval: 10 * time.Millisecond, WriteTimeout: 10 * patience, PingInterval: -1, QueueBytes: 64 << 20})
	n.connect("well")
	send := func(user string) {
		t.Helper()
		if err := n.Send(t.Context(), herald.User(user), herald.Text("now")); err != nil {
			t.Fatal(err)
		}
	}
	await(t, "some lags", func() bool { send("well"); return n.Stats().Lag.Count >= 3 })
	s := n.Stats()
	if s.Lag.Count > s.BusRoundTrips.Count || s.Lag.Sum <= 0 {
		t.Errorf("%d lags of %v together, %d round trips", s.Lag.Count, s.Lag.Sum, s.BusRoundTrips.Count)
	}
	const stuck = 300 * time.Millisecond
	ws, c := n.stick("slow", herald.Binary(make([]byte, 256<<10)))
	before := longer(n.Stats().Lag, stuck)
	trips := n.Stats().BusRoundTrips.Count
	await(t, "a heartbeat, and a message after it", func() bool { send("slow"); return n.Stats().BusRoundTrips.Count > trips+1 })
	send("slow")
	from := time.Now()
	await(t, "a long wait", func() bool { return time.Since(from) > 2*stuck })
	for c.Stats().Queued > 0 {
		if _, err := ws.ReadMessage(); err != nil {
			t.Fatal(err)
		}
	}
	if got := longer(n.Stats().Lag, stuck); got <= before {
		t.Errorf("%d lags longer than %v", got-before, stuck)
	}
}

// A Deliver counts the sessions that have received its message, and those that have
// not.
func TestDeliveries(t *testing.T) {
	n := newNode(t, herald.Config{ProbeInterval: -1})
	ws := n.connect("answers")
	go func() {
		for {
			f, err := ws.ReadFrame()
			if err != nil {
				return
			}
			if f.Opcode == wsraw.Ping {
				ws.WriteFrames(wsraw.Frame{Fin: true, Opcode: wsraw.Pong, Payload: f.Payload})
			}
		}
	}()
	n.connect("silent")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := n.Deliver(ctx, herald.User("answers"), herald.Text("hello")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := n.Deliver(ctx, herald.User("silent"), herald.Text("hello")); err != nil {
		t.Fatal(err)
	}
	if s := n.Stats(); s.DeliveriesReceived != 1 || s.DeliveriesMissed != 1 {
		t.Errorf("received %d, missed %d, of one each", s.DeliveriesReceived, s.DeliveriesMissed)
	}
}

// A resume is counted once, by its outcome, however many partitions there are.
func TestResumes(t *testing.T) {
	t.Run("memory", func(t *testing.T) { testResumes(t, nil) })
	t.Run("Cluster", func(t *testing.T) {
		testResumes(t, redistest.StartCluster(t, 3, 0, redistest.NeverFailed...).Client())
	})
}

func testResumes(t *testing.T, client redis.UniversalClient) {
	newHub := func(prefix string) *herald.Hub {
		hub, err := herald.New(herald.Config{Redis: client, Prefix: prefix, Retention: time.Minute, Authenticate: func(*http.Request) (herald.Identity, error) {
			return herald.Identity{User: "a"}, nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			hub.Shutdown(ctx)
		})
		return hub
	}
	position := func(h *herald.Hub) string {
		p, err := h.Position(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	hub, other := newHub("one"), newHub("other")
	n := &node{t: t, Hub: hub, server: httptest.NewServer(hub)}
	t.Cleanup(n.server.Close)
	for _, from := range []string{"", position(hub), position(hub), position(other)} {
		if ws, response := n.dial("a&herald=1&herald.from="+url.QueryEscape(from), nil, 0); ws == nil {
			t.Fatal(response.Status)
		}
	}
	await(t, "all resumes", func() bool {
		s := n.Stats()
		return s.Resumes == 3 && s.ResumesWhole == 2 && s.ResumesInPart == 1
	})
}
