package herald

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heraldgo/herald/internal/test/wsraw"
)

// Many clients of few accounts never read, and the application answers a byte
// of theirs with much. All their queues together stay within the budget, and
// one who reads gets everything meanwhile.
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
			if n := log.count("MaxQueuedBytes"); n == 0 || n > 2 { // a second after a minute
				t.Errorf("told %d times", n)
			}
			for _, c := range append(greedy, honest) {
				c.Close()
			}
			r.clean()
		})
	}
}

// full adds Conns without a socket, of which the i-th has sizes[i] messages
// waiting. The Hub does not look at them yet.
func (h *Hub) full(t *testing.T, frame func(conn, message int) []byte, sizes ...int) []*Conn {
	h.budget.next.Store(math.MaxInt64) // for lookNow
	conns := make([]*Conn, len(sizes))
	for i, n := range sizes {
		c := h.newConn(httptest.NewRequest("GET", "/", nil), Identity{User: fmt.Sprint("u", i)})
		h.follower.Follow(topicEveryone, userTopic(c.User()))
		h.index.add(c, 0, 0)
		conns[i], c.accepted = c, true
		for j := range n {
			if err := c.enqueue(frame(i, j), false); err != nil {
				t.Fatal(err)
			}
		}
		t.Cleanup(func() { c.kill(nil) })
	}
	return conns
}

func ownFrame(int, int) []byte { return Text(strings.Repeat("x", 1<<10)).frame() }

// lookNow has the Hub look at its queues, be it due or not.
func (h *Hub) lookNow() {
	h.budget.next.Store(0)
	h.look()
}

// The fullest queues are closed, and none that is smaller than one that is
// left.
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
	if s := h.Stats(); s.OverBudget != 1 || s.TooSlow != 1 || s.Dropped != 300 {
		t.Errorf("%+v", s)
	}
	if held, _ := h.weigh(); held > h.budget.low() {
		t.Errorf("%d bytes are held", held)
	}
}

// With DropOldest the fullest lose their oldest messages, and nobody is closed.
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
	if s := h.Stats(); s.Dropped != 500 || s.OverBudget != 0 {
		t.Errorf("%+v", s)
	}
}

// A message to many is in memory once, so it is no reason to close anybody,
// however many wait for it; and who has messages of its own is fuller than who
// shares more of them.
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

// Messages that are in more queues than they have bytes count all the same.
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

// While the budget is nearly used up volatile messages are dropped, for
// everyone, and nothing else is; they flow again once it is not.
func TestVolatileGoesFirst(t *testing.T) {
	h := newHub(t, Config{MaxQueuedBytes: 1 << 20, MaxSendSize: 2 << 10})
	conns := h.full(t, ownFrame, 420, 420, 0)
	idle := conns[2]
	volatile := func() uint64 {
		before := h.Stats().DroppedVolatile
		idle.enqueue(ownFrame(0, 0), true)
		return h.Stats().DroppedVolatile - before
	}
	h.lookNow()
	if held, _ := h.weigh(); held < h.budget.low() || held > h.budget.limit || volatile() != 1 || h.Stats().OverBudget != 0 {
		t.Errorf("%d bytes are held, %+v", held, h.Stats())
	}
	conns[0].kill(nil)
	await(t, "volatile messages to be let through", func() bool { return volatile() == 0 })
}

// While the budget is nearly used up the queues are counted again and again.
// Nobody who queues a message waits for that.
func TestNobodyWaitsForTheWatch(t *testing.T) {
	h := newHub(t, Config{MaxQueuedBytes: 1 << 20, MaxSendSize: 2 << 10})
	conns := h.full(t, ownFrame, 420, 420, 0)
	h.lookNow()
	conns[0].mu.Lock() // so that the next count takes long
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
		conns[2].enqueue(make([]byte, 2*smallQueue), false)
		close(queued)
	}()
	select {
	case <-queued:
	case <-time.After(patience):
		t.Error("a message was not queued while the queues were counted")
	}
}

// What is under way counts, and it can be had only with the socket.
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

// Off is off, and a budget must hold a message.
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

// Off it stays off, when the hour is over after which the queues are looked at
// even if nobody has asked for it.
func TestNoBudgetAfterAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Config{MaxQueuedBytes: -1})
		conns := h.full(t, ownFrame, 100)
		time.Sleep(time.Hour + time.Second)
		synctest.Wait()
		err := conns[0].enqueue(ownFrame(0, 0), false)
		if s := h.Stats(); err != nil || s.Queued != 101 || s.OverBudget != 0 {
			t.Errorf("%v, %+v", err, s)
		}
	})
}
