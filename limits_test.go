package herald

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald/internal/frame"
	"github.com/heraldgo/herald/internal/loan"
	"github.com/heraldgo/herald/internal/test/redistest"
	"github.com/heraldgo/herald/internal/test/wsraw"
)

// newPair starts two rigs that are nodes of one cluster, in memory or on a
// redis-server.
func newPair(t *testing.T, onRedis bool, config Config) []*rig {
	t.Helper()
	network, registry := NewMemoryNetwork(), NewMemoryRegistry()
	var server *redistest.Server
	if onRedis {
		server = redistest.Start(t)
	}
	var rigs []*rig
	for i := range 2 {
		config.Name = fmt.Sprint("node", i)
		if onRedis {
			config.Redis = server.Client()
		} else {
			config.Bus, config.Registry = network.Bus(), registry.Handle()
		}
		rigs = append(rigs, newRig(t, config))
	}
	return rigs
}

// A racer is a client that stays connected until either side closes.
type racer struct {
	ws   *wsraw.Conn
	code StatusCode // the close code that it saw
	done chan struct{}
}

func race(ws *wsraw.Conn) *racer {
	c := &racer{ws: ws, done: make(chan struct{})}
	go func() {
		defer close(c.done)
		defer ws.Close()
		closed, err := ws.ReadClose()
		for range 4 { // its turn to be closed may come late
			if errors.Is(err, os.ErrDeadlineExceeded) {
				closed, err = ws.ReadClose()
			}
		}
		if err == nil {
			c.code = StatusCode(closed.Code)
			ws.WriteFrames(wsraw.CloseFrame(closed.Code, ""))
		}
	}()
	return c
}

func (c *racer) alive() bool {
	select {
	case <-c.done:
		return false
	default:
		return true
	}
}

func TestMaxPerUserRace(t *testing.T) {
	for name, onRedis := range map[string]bool{"memory": false, "redis": true} {
		t.Run(name, func(t *testing.T) {
			const users, connects, limit = 10, 1000, 3
			rigs := newPair(t, onRedis, Config{
				Admit: MaxPerUser(limit), CloseTimeout: patience, OfflineDelay: -1,
				SendTimeout: patience, HandshakeTimeout: 2 * patience, // a slow machine refuses nobody
			})
			var connecting sync.WaitGroup
			for worker := range 16 {
				connecting.Go(func() {
					random := rand.New(rand.NewPCG(uint64(worker), 1))
					var mine []*racer
					for i := worker; i < connects; i += 16 {
						r := rigs[random.IntN(2)]
						ws, response, err := wsraw.Handshake(r.dialTCP(0), "/?"+query(fmt.Sprint("user ", i%users)), nil)
						if err != nil {
							t.Errorf("connect: %v: %+v, Health: %v", err, response, r.Health())
							return
						}
						mine = append(mine, race(ws))
						if random.IntN(2) == 0 { // some clients leave by themselves, after any time
							gone := mine[random.IntN(len(mine))]
							if random.IntN(2) == 0 {
								gone.ws.Close()
							} else {
								gone.ws.WriteFrames(wsraw.CloseFrame(1000, ""))
							}
						}
					}
				})
			}
			connecting.Wait()
			// Each user connects five more times, on both nodes in turn. The newest
			// three stay.
			last := make(map[string][]*racer)
			for i := range 5 {
				for u := range users {
					user := fmt.Sprint("user ", u)
					last[user] = append(last[user], race(rigs[i%2].connect(query(user))))
				}
			}
			for user, clients := range last {
				for _, c := range clients[:2] {
					<-c.done
					if c.code != StatusReplaced {
						t.Errorf("an older client of %s saw %d", user, c.code)
					}
				}
			}
			settled(t, rigs)
			for user, clients := range last {
				sessions, err := rigs[0].Sessions(t.Context(), User(user))
				if err != nil || len(sessions) != limit {
					t.Errorf("%s has %d sessions, %v", user, len(sessions), err)
				}
				for i, c := range clients[2:] {
					if !c.alive() {
						t.Errorf("one of the newest of %s was closed: %d of %d", user, i, len(clients))
					}
				}
			}
			agree(t, rigs)
			for _, clients := range last {
				for _, c := range clients {
					c.ws.Close()
				}
			}
			for _, r := range rigs {
				r.clean()
			}
			for _, r := range rigs {
				ctx, cancel := context.WithTimeout(context.Background(), patience)
				defer cancel()
				if err := r.Shutdown(ctx); err != nil {
					t.Error(err)
				}
			}
			requireNoGoroutines(t)
		})
	}
}

// settled waits until all handshakes and closes are over and their writes to the
// Registry are done.
func settled(t *testing.T, rigs []*rig) {
	t.Helper()
	for _, r := range rigs {
		r.await("an end of all handshakes", func() bool {
			conns, _, _ := r.index.size()
			return conns == len(slices.Collect(r.Conns()))
		})
	}
	for _, r := range rigs {
		r.await("an end of all closes", func() bool { return len(r.closing.list()) == 0 })
		if err := r.presence.barrier(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// agree checks, entry by entry, that the Registry and each node's index have the
// same.
func agree(t *testing.T, rigs []*rig) {
	t.Helper()
	for _, r := range rigs {
		want := make(map[string][]string)
		for c := range r.Conns() {
			want[c.ID()] = slices.DeleteFunc(r.index.topicsOf(c), func(s string) bool { return s == topicEveryone })
		}
		got := make(map[string][]string)
		for _, e := range entriesOf(t, r.Hub) {
			got[e.Session.ID] = append(got[e.Session.ID], append(slices.Clone(e.Topics), e.UserTopic)...)
		}
		for _, m := range []map[string][]string{want, got} {
			for _, topics := range m {
				slices.Sort(topics)
			}
		}
		if !maps.EqualFunc(got, want, slices.Equal) {
			t.Errorf("the Registry has %d entries of %s: %v\nits index has %d: %v", len(got), r.NodeID(), got, len(want), want)
		}
	}
}

func TestOnePerPlatformAndDevice(t *testing.T) {
	for name, test := range map[string]struct {
		admit AdmitFunc
		stay  int
	}{
		"platform": {OnePerPlatform(), 2}, // web and ios
		"device":   {OnePerDevice(), 4},   // a, b, and two without
	} {
		t.Run(name, func(t *testing.T) {
			rigs := newPair(t, false, Config{Admit: test.admit, CloseTimeout: patience})
			var clients []*racer
			for i, q := range []string{"device=a&platform=web", "device=b&platform=ios", "platform=web", "platform=web", "device=a&platform=ios", "device=b&platform=web"} {
				clients = append(clients, race(rigs[i%2].connect("user=u&"+q)))
			}
			stranger := race(rigs[0].connect("user=v&device=a&platform=web"))
			settled(t, rigs)
			sessions, err := rigs[0].Sessions(t.Context(), User("u"))
			if err != nil || len(sessions) != test.stay {
				t.Errorf("%d stay, want %d: %v, %v", len(sessions), test.stay, sessions, err)
			}
			if !stranger.alive() || !clients[4].alive() || !clients[5].alive() {
				t.Error("the newest, or a stranger, was closed")
			}
			agree(t, rigs)
			for _, c := range append(clients, stranger) {
				c.ws.Close()
			}
			for _, r := range rigs {
				r.clean()
			}
		})
	}
}

// refusedWith connects to a Hub that refuses the client, and checks the status.
func (r *rig) refusedWith(status int, query string) {
	r.t.Helper()
	response := r.refused(query, nil)
	if response.StatusCode != status {
		r.t.Errorf("status %s, want %d", response.Status, status)
	}
	retry := response.Header.Get("Retry-After") != ""
	if want := status == http.StatusServiceUnavailable || status == http.StatusTooManyRequests; retry != want {
		r.t.Errorf("status %d: Retry-After is %q", status, response.Header.Get("Retry-After"))
	}
	if retry != response.Close {
		r.t.Errorf("status %d: the connection is kept: %v", status, !response.Close)
	}
}

func TestLimitsOnConnections(t *testing.T) {
	r := newRig(t, Config{MaxConns: 3, MaxConnsPerUser: 2})
	a := r.connect("user=a")
	b := r.connect("user=a")
	r.refusedWith(http.StatusTooManyRequests, "user=a")
	c := r.connect("user=b")
	r.refusedWith(http.StatusServiceUnavailable, "user=c")
	for _, ws := range []*wsraw.Conn{a, b, c} {
		ws.Close()
	}
	r.ended(3)
	r.clean()
	r.connect("user=a").Close()
	r.ended(4)
	if n := r.Stats().Rejected; n != 2 {
		t.Errorf("Rejected is %d", n)
	}
}

func TestSendLimits(t *testing.T) {
	h := newHub(t, Config{MaxSendSize: 1000, QueueBytes: 2000})
	for name, m := range map[string]Message{
		"too big":   Binary(make([]byte, 1001)),
		"not UTF-8": Text("\xff"),
		"not JSON":  JSON(func() {}),
	} {
		if err := h.Send(t.Context(), Everyone(), m); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := h.Send(t.Context(), Everyone(), Binary(make([]byte, 1000))); err != nil {
		t.Error(err)
	}
	if err := h.Send(t.Context(), Target{}, Text("")); !errors.Is(err, ErrInvalid) {
		t.Errorf("zero Target: %v", err)
	}
}

// Many clients of few accounts never read, and the application answers each of
// their short messages with a long one. All queues together stay within the budget,
// and a client that reads gets everything meanwhile.
func TestClientsThatNeverRead(t *testing.T) {
	for _, secure := range []bool{false, true} {
		t.Run(map[bool]string{false: "TCP", true: "TLS"}[secure], func(t *testing.T) {
			const clients, answer, asks = 40, 128 << 10, 20
			limit := int64(8 << 20)
			var log journal
			r := newRigOver(t, secure, Config{
				MaxQueuedBytes: limit,
				WriteTimeout:   patience,
				CloseTimeout:   patience,
				Logger:         slog.New(slog.NewTextHandler(&log, nil)),
				OnMessage: func(_ context.Context, c *Conn, m Message) {
					c.Send(numbered(0, answer))
				},
			})
			honest := r.connectOver(secure, "user=honest")
			reader := r.findUser("honest")
			var greedy []*wsraw.Conn
			for i := range clients {
				greedy = append(greedy, r.connectSmall(secure, fmt.Sprint("user=greedy", i%8)))
			}
			r.await("all clients", func() bool { return r.Stats().Conns == clients+1 })
			for c := range r.Conns() {
				narrow(c)
			}
			before, most := heapInUse(), int64(0)
			for i := range asks {
				var asking sync.WaitGroup
				for _, c := range greedy {
					asking.Go(func() { c.WriteFrames(textFrame("?")) })
				}
				asking.Wait()
				if err := reader.Send(numbered(i, answer)); err != nil {
					t.Fatalf("one who reads: %v", err)
				}
				if b, err := honest.ReadMessage(); err != nil {
					t.Fatalf("one who reads: %v", err)
				} else if n, err := number(b); err != nil || n != i {
					t.Fatalf("message %d: got %d, %v", i, n, err)
				}
				r.await("queues within the budget", func() bool { held, _ := r.weigh(); return held <= limit })
				most = max(most, heapInUse()-before)
			}
			s := r.Stats()
			t.Logf("asked for %d MB, at most %d MB more in memory; %d closed", clients*asks*answer>>20, most>>20, s.OverBudget)
			if most > 4*limit {
				t.Errorf("%d MB more in memory", most>>20)
			}
			if s.OverBudget == 0 || s.TooSlow < s.OverBudget || s.QueuedBytes > limit {
				t.Errorf("%+v", s)
			}
			if n := log.count("MaxQueuedBytes"); n == 0 || n > 2 { // the second after a minute
				t.Errorf("told %d times", n)
			}
			for _, c := range append(greedy, honest) {
				c.Close()
			}
			r.clean()
		})
	}
}

// full adds a Conn without a socket for each of sizes, with that many messages in
// its queue. The Hub does not look at the queues until lookNow.
func (h *Hub) full(t *testing.T, frame func(conn, message int) []byte, sizes ...int) []*Conn {
	h.budget.next.Store(math.MaxInt64) // until lookNow
	conns := make([]*Conn, len(sizes))
	for i, n := range sizes {
		c := h.newConn(httptest.NewRequest("GET", "/", nil), Identity{User: fmt.Sprint("u", i)})
		h.follower.Follow(topicEveryone, userTopic(c.User()))
		h.index.add(c, 0, 0)
		conns[i], c.accepted = c, true
		for j := range n {
			if err := c.enqueue(frame(i, j), false, nil); err != nil {
				t.Fatal(err)
			}
		}
		t.Cleanup(func() { c.kill(nil) })
	}
	return conns
}

func ownFrame(int, int) []byte { return Text(strings.Repeat("x", 1<<10)).frame() }

// lookNow has the Hub look at its queues, whether that is due or not.
func (h *Hub) lookNow() {
	h.budget.next.Store(0)
	h.look()
}

// Only the fullest queues are closed, no more of them than necessary.
func TestFullestAreClosed(t *testing.T) {
	h := newHub(t, Config{MaxQueuedBytes: 1 << 20, MaxSendSize: 2 << 10})
	conns := h.full(t, ownFrame, 10, 300, 20, 200, 30, 100, 40, 60, 50, 90, 80, 70)
	h.lookNow()
	for i, c := range conns {
		q := queueOf(c)
		if closed := i == 1; c.isClosing() != closed || closed && (q.size() > 0 || !errors.Is(context.Cause(c.ctx), ErrTooSlow)) {
			t.Errorf("conn %d: closing %v, %d messages, %v", i, c.isClosing(), q.size(), context.Cause(c.ctx))
		}
	}
	if s := h.Stats(); s.OverBudget != 1 || s.TooSlow != 1 || s.Dropped != 300 || s.DroppedBudget != 300 {
		t.Errorf("%+v", s)
	}
	if held, _ := h.weigh(); held > h.budget.low() {
		t.Errorf("%d bytes are held", held)
	}
}

// With DropOldest the fullest queues lose their oldest messages, and no Conn is
// closed.
func TestFullestLoseOldest(t *testing.T) {
	h := newHub(t, Config{MaxQueuedBytes: 1 << 20, MaxSendSize: 2 << 10, DropOldest: true})
	conns := h.full(t, ownFrame, 10, 400, 20, 300, 30, 200, 300)
	h.lookNow()
	var left []int
	for _, c := range conns {
		q := queueOf(c)
		if left = append(left, q.size()); c.isClosing() {
			t.Error("a Conn was closed")
		}
	}
	if !slices.Equal(left, []int{10, 200, 20, 150, 30, 200, 150}) {
		t.Errorf("there are left %d", left)
	}
	if s := h.Stats(); s.Dropped != 500 || s.DroppedBudget != 500 || s.OverBudget != 0 {
		t.Errorf("%+v", s)
	}
}

// A message to many is in memory once, so it is no reason to close anybody, however
// many Conns it waits for. A Conn with messages of its own counts as fuller than
// one that shares more messages with others.
func TestSharedMessagesCountOnce(t *testing.T) {
	h := newHub(t, Config{MaxQueuedBytes: 1 << 20, MaxSendSize: 2 << 10})
	var shared [400][]byte
	for i := range shared {
		shared[i] = ownFrame(0, i)
	}
	common := func(_, j int) []byte { return shared[j] }
	conns := h.full(t, common, slices.Repeat([]int{len(shared)}, 50)...)
	h.lookNow()
	if held, _ := h.weigh(); h.Stats().OverBudget != 0 || held > 1<<20 {
		t.Fatalf("%d are closed, %d bytes are held", h.Stats().OverBudget, held)
	}
	if s := h.Stats(); s.QueuedBytes != int64(50*400*len(shared[0])) {
		t.Errorf("QueuedBytes is %d", s.QueuedBytes)
	}
	owner := h.full(t, ownFrame, 399, 399)
	owner = append(owner, h.full(t, ownFrame, 100)...)
	h.lookNow()
	if !owner[0].isClosing() && !owner[1].isClosing() || owner[2].isClosing() || slices.ContainsFunc(conns, (*Conn).isClosing) {
		t.Error("another than the fullest was closed")
	}
}

// Messages count even if they are in more queues than they have bytes.
func TestSmallMessagesToManyCount(t *testing.T) {
	h := newHub(t, Config{MaxQueuedBytes: 64 << 10, MaxSendSize: 2 << 10})
	var shared [400][]byte
	for i := range shared {
		shared[i] = Text(strings.Repeat("x", 100)).frame()
	}
	h.full(t, func(_, j int) []byte { return shared[j] }, slices.Repeat([]int{len(shared)}, 300)...)
	h.lookNow()
	if held, _ := h.weigh(); held > h.budget.low() {
		t.Errorf("%d bytes are held", held)
	}
}

// While the budget is nearly used up, volatile messages are dropped for everyone,
// and no other messages are. Afterwards they pass again.
func TestVolatileGoesFirst(t *testing.T) {
	h := newHub(t, Config{MaxQueuedBytes: 1 << 20, MaxSendSize: 2 << 10})
	conns := h.full(t, ownFrame, 420, 420, 0)
	idle := conns[2]
	volatile := func() uint64 {
		before := h.Stats().DroppedVolatile
		idle.enqueue(ownFrame(0, 0), true, nil)
		return h.Stats().DroppedVolatile - before
	}
	h.lookNow()
	if held, _ := h.weigh(); held < h.budget.low() || held > h.budget.limit || volatile() != 1 || h.Stats().OverBudget != 0 {
		t.Errorf("%d bytes are held, %+v", held, h.Stats())
	}
	conns[0].kill(nil)
	await(t, "volatile messages to be let through", func() bool { return volatile() == 0 })
}

// While the budget is nearly used up, the queues are counted again and again. No
// sender waits for that.
func TestNobodyWaitsForTheWatch(t *testing.T) {
	h := newHub(t, Config{MaxQueuedBytes: 1 << 20, MaxSendSize: 2 << 10})
	conns := h.full(t, ownFrame, 420, 420, 0)
	h.lookNow()
	conns[0].mu.Lock() // so that the next count blocks
	defer conns[0].mu.Unlock()
	await(t, "a count", func() bool {
		if h.budget.mu.TryLock() {
			h.budget.mu.Unlock()
			return false
		}
		return true
	})
	queued := make(chan struct{})
	go func() {
		conns[2].enqueue(make([]byte, 2*smallQueue), false, nil)
		close(queued)
	}()
	select {
	case <-queued:
	case <-time.After(patience):
		t.Error("a message was not queued while the queues were counted")
	}
}

// Frames being written count too. Their memory is released by closing the socket.
func TestUnderWayIsReleased(t *testing.T) {
	limit := int64(2 << 20)
	r := newRig(t, Config{MaxQueuedBytes: limit, MaxSendSize: 1 << 20, WriteTimeout: patience, CloseTimeout: patience})
	for i := range 6 {
		r.connectSmall(false, fmt.Sprint("user=", i))
	}
	r.await("all clients", func() bool { return r.Stats().Conns == 6 })
	r.budget.next.Store(math.MaxInt64)
	for c := range r.Conns() {
		narrow(c)
		if err := c.Send(numbered(0, 1<<20)); err != nil {
			t.Error(err)
		}
		r.await("a stuck socket", func() bool { return queueOf(c).blocked })
	}
	r.lookNow()
	for _, cause := range r.ended(5) {
		if closeCode(cause) != StatusTooSlow || !errors.Is(cause, ErrTooSlow) {
			t.Errorf("cause %v", cause)
		}
	}
	if held, _ := r.weigh(); held > limit || r.Stats().Conns != 1 {
		t.Errorf("%d bytes are held, by %d", held, r.Stats().Conns)
	}
}

// A MaxQueuedBytes of -1 means no budget. Any other must hold a message.
func TestNoBudget(t *testing.T) {
	h := newHub(t, Config{MaxQueuedBytes: -1, QueueBytes: 100 << 20})
	conns := h.full(t, func(int, int) []byte { return make([]byte, 1<<20) }, 90, 90, 90)
	if s := h.Stats(); s.QueuedBytes != 270<<20 || s.OverBudget != 0 || slices.ContainsFunc(conns, (*Conn).isClosing) {
		t.Errorf("%+v", s)
	}
	if _, err := New(Config{MaxQueuedBytes: 1 << 20}); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "Config.MaxQueuedBytes: 1048576 must hold a message") {
		t.Error(err)
	}
}

// Without a budget nothing changes after an hour, when the queues would be looked
// at even if nobody had asked for it.
func TestNoBudgetAfterAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Config{MaxQueuedBytes: -1})
		conns := h.full(t, ownFrame, 100)
		time.Sleep(time.Hour + time.Second)
		synctest.Wait()
		err := conns[0].enqueue(ownFrame(0, 0), false, nil)
		if s := h.Stats(); err != nil || s.Queued != 101 || s.OverBudget != 0 {
			t.Errorf("%v, %+v", err, s)
		}
	})
}

// What the Hub remembers of messages that come in several packets is bounded in
// Conns, not only in messages. The latest message is remembered whole.
func TestCopiesAreBounded(t *testing.T) {
	for _, conns := range []uint64{0, 1, 2_000, maxCopyConns + 1} {
		var s copies
		messages := uint64(min(3*maxCopies, 4*maxCopyConns/(conns+1)+2))
		for id := range messages {
			had := s.of("node", id)
			for c := range conns {
				had[c] = struct{}{}
			}
			if again := s.of("node", id); len(again) != int(conns) {
				t.Fatalf("%d of %d Conns are remembered of the latest", len(again), conns)
			}
			if len(s.had) != s.order.Len() || len(s.had) > maxCopies {
				t.Fatalf("%d messages are remembered, %d in order", len(s.had), s.order.Len())
			}
		}
		sum := 0
		for _, had := range s.had {
			sum += len(had)
		}
		if sum > int(max(maxCopyConns, conns)+conns) || s.conns != sum-int(conns) {
			t.Errorf("%d Conns a message: %d are remembered, %d counted", conns, sum, s.conns)
		}
	}
}

// A message to a user or a Conn that has just left is counted as such, apart from
// packets for others that the Bus hands over too.
func TestNobodyLeftIsCounted(t *testing.T) {
	bus := NewMemoryNetwork().Bus()
	r := newRig(t, Config{Bus: bus, Registry: NewMemoryRegistry(), Linger: 1 << 40})
	client := r.connect(query("42"))
	c := r.only()
	client.Close()
	r.await("its end", func() bool { return r.Stats().Disconnected == 1 && r.Stats().Topics == 0 })
	if err := bus.Subscribe(t.Context(), userTopic("other")); err != nil { // like a Bus that cannot select by topic
		t.Fatal(err)
	}
	for _, target := range []Target{User("42"), User("42"), User("other"), Connection(c.ID(), r.NodeID()+".999"), Connection("other.1")} {
		if err := r.Send(t.Context(), target, Text("hello")); err != nil {
			t.Fatal(err)
		}
	}
	r.await("the packets", func() bool { s := r.Stats(); return s.Lingering+s.Foreign == 3 && s.Gone > 0 })
	if s := r.Stats(); s.Lingering != 2 || s.Foreign != 1 || s.Gone != 2 || s.Delivered != 0 {
		t.Errorf("Lingering %d, Foreign %d, Gone %d, Delivered %d, want 2, 1, 2, 0", s.Lingering, s.Foreign, s.Gone, s.Delivered)
	}
}

// lentText returns a message of n bytes, all of which follow from its first few.
func lentText(user, number, n int) []byte {
	head := fmt.Appendf(nil, "%d %d %d ", user, number, n)
	return append(head, bytes.Repeat([]byte{byte('a' + (user*7+number)%26)}, max(0, n-len(head)))...)
}

// The memory of packets is used again, and yet every client gets what it was sent.
// Some clients read slowly, so that writes are cut in pieces and queues drop old
// messages, and some go away in the middle.
func TestLentMemoryIsReadByItsHoldersAlone(t *testing.T) {
	server := miniredis.RunT(t)
	r := newRig(t, Config{Redis: redis.NewClient(&redis.Options{Addr: server.Addr()}), Prefix: "lent", DropOldest: true, QueueMessages: 16, MaxConnsPerUser: -1})
	const users, devices, each, senders = 6, 3, 250, 4
	var reading sync.WaitGroup
	var clients []*wsraw.Conn
	check := func(user int, c *wsraw.Conn, slow bool) {
		random := rand.New(rand.NewPCG(uint64(user), 1))
		for n := 0; ; n++ {
			got, err := c.ReadMessage()
			if err != nil {
				return
			}
			var to, number, size int
			if _, err := fmt.Sscanf(string(got[:min(len(got), 40)]), "%d %d %d ", &to, &number, &size); err != nil || to != user || !bytes.Equal(got, lentText(to, number, size)) {
				t.Errorf("a client of user %d got %.60q of %d bytes (%v)", user, got, len(got), err)
				return
			}
			if slow && random.IntN(4) == 0 {
				time.Sleep(time.Millisecond)
			}
			if slow && n == 200 { // the client goes away in the middle of writes
				c.Close()
				return
			}
		}
	}
	for user := range users {
		for device := range devices {
			buffer := 0
			if device > 0 {
				buffer = 2 << 10
			}
			c := r.upgrade(r.dialTCP(buffer), fmt.Sprintf("user=%d&groups=all", user))
			clients = append(clients, c)
			reading.Go(func() { check(user, c, device > 0) })
		}
	}
	var sending sync.WaitGroup
	for s := range senders {
		sending.Go(func() {
			random := rand.New(rand.NewPCG(uint64(s), 2))
			for n := range each {
				user := random.IntN(users)
				m := Binary(lentText(user, s*each+n, 400+random.IntN(6000)))
				if err := r.Send(t.Context(), User(fmt.Sprint(user)), m); err != nil {
					t.Errorf("Send: %v", err)
				}
			}
		})
	}
	sending.Wait()
	r.await("an end of what waits", func() bool { return r.Stats().Queued == 0 })
	for _, c := range clients {
		c.Close()
	}
	reading.Wait()
	if s := r.Stats(); s.Written == 0 {
		t.Error("nothing was written")
	}
}

// The memory of a frame is lent again when its Conn has written it.
func TestWrittenMemoryIsLentAgain(t *testing.T) {
	r := newRig(t, Config{})
	client := r.connect("user=u")
	c := r.only()
	r.await("OnConnect", c.isAccepted)
	for range 100 { // a pool may drop some
		b := loan.Get(1000)
		memory := &b.Bytes[0]
		copy(b.Bytes, frame.AppendHeader(nil, frame.Binary, len(b.Bytes)-4))
		if err := c.enqueueLent(b.Bytes, b, false, nil); err != nil {
			t.Fatal(err)
		}
		b.Release()
		if _, err := client.ReadMessage(); err != nil {
			t.Fatal(err)
		}
		r.await("the write's end", func() bool { q := queueOf(c); return q.size() == 0 })
		if again := loan.Get(1000); &again.Bytes[0] == memory {
			return
		}
	}
	t.Error("no memory is lent again")
}

// ByteRate counts the inflated size of a message.
func TestByteRateOfBombs(t *testing.T) {
	r := newRig(t, Config{Compression: true, MaxMessageSize: 64 << 10, ByteRate: 64 << 10, MessageRate: -1})
	c := r.deflating("")
	bomb := packed(wsraw.Binary, strings.Repeat("a", 64<<10))
	c.WriteFrames(bomb, bomb, bomb, bomb, bomb, bomb, bomb, bomb)
	if closed, err := c.ReadClose(); err != nil || closed.Code != 1008 {
		t.Errorf("got %v, %v", closed, err)
	}
	// Data without repetitions is one message, even if compression makes it longer.
	c = r.deflating("user=b")
	noise := make([]byte, 64<<10)
	for i, x := 0, uint32(1); i < len(noise); i++ {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		noise[i] = byte(x)
	}
	c.WriteFrames(packed(wsraw.Binary, string(noise)), wsraw.CloseFrame(1000, ""))
	if closed, err := c.ReadClose(); err != nil || closed.Code != 1000 {
		t.Errorf("got %v, %v", closed, err)
	}
}
