package herald

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heraldgo/herald/internal/conflate"
	"github.com/heraldgo/herald/internal/frame"
	"github.com/heraldgo/herald/internal/history"
	"github.com/heraldgo/herald/internal/history/device"
	"github.com/heraldgo/herald/internal/history/driver"
	"github.com/heraldgo/herald/internal/history/protocol"
	"github.com/heraldgo/herald/internal/rawio"
	"github.com/heraldgo/herald/internal/receipts"
	"github.com/heraldgo/herald/internal/wake"
)

// Random calls in any order: a queue gives out whole frames in order, without those
// that it dropped. Control frames come only between them, and the close frame is
// the last.
func TestQueue(t *testing.T) {
	config := Config{QueueMessages: 20, QueueBytes: 200 << 10}
	for seed := range uint64(40) {
		random := rand.New(rand.NewPCG(seed, 0))
		var q queue
		var got []byte
		var want [][]byte // frames that were queued and not dropped
		next, written := 0, 0
		buf := make([]byte, 0, flushSize)
		put := func() {
			size := []int{8, 100, 200, 40 << 10, 70 << 10}[random.IntN(5)]
			frame := numbered(next, size).frame()
			next++
			if q.full(&config, len(frame)) {
				before := q.size()
				dropped, fits := q.makeRoom(&config, len(frame))
				if dropped != before-q.size() {
					t.Fatalf("dropped %d of %d, %d stay", dropped, before, q.size())
				}
				at := written + q.out // frames being written stay
				want = slices.Delete(want, at, at+dropped)
				if fits == q.full(&config, len(frame)) {
					t.Fatalf("a frame fits: %v, in a queue that is full: %v", fits, fits)
				}
				if !fits {
					return
				}
			}
			q.put(frame)
			want = append(want, frame)
		}
		flush := func() {
			p, _, joined := q.take(buf)
			if p == nil {
				return
			}
			for range random.IntN(3) { // frames that are queued meanwhile do not change p
				put()
			}
			n := random.IntN(len(p) + 1)
			if random.IntN(2) == 0 {
				n = len(p)
			}
			got = append(got, p[:n]...)
			if n < len(p) {
				if p = p[n:]; joined {
					p = slices.Clone(p)
				}
				q.rest = p
				clear(buf[:cap(buf)]) // the buffer serves another Conn
				p, _, _ = q.take(buf)
				got = append(got, p...)
			}
			written += q.written()
		}
		for range 100 {
			switch random.IntN(10) {
			case 0:
				q.pongs = []byte{frame.Pong, 0}
			case 1:
				q.ping = true
			case 2, 3, 4, 5:
				put()
			default:
				flush()
			}
			sum := q.outBytes
			for i := range q.frames.Len() {
				sum += len(q.frames.At(i).frame)
			}
			if sum != q.bytes || q.size() > config.QueueMessages || q.bytes > config.QueueBytes {
				t.Fatalf("seed %d: %d frames, %d bytes counted, %d there", seed, q.size(), q.bytes, sum)
			}
		}
		if q.closeFrame = closeFrame(StatusNormal, "end"); random.IntN(2) == 0 {
			want = want[:len(want)-q.clear()]
		}
		for range 100 {
			flush1(&q, buf, &got)
		}
		if q.hasWork() {
			t.Fatalf("seed %d: there is work left when all is written", seed)
		}
		if err := checkStream(got, append(want, closeFrame(StatusNormal, "end"))); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if len(q.frames.Buf) > 1 || q.first[0].frame != nil || q.rest != nil || q.bytes != 0 || q.out != 0 {
			t.Fatalf("seed %d: an empty queue holds %d frames, %d bytes", seed, q.size(), q.bytes)
		}
	}
}

func flush1(q *queue, buf []byte, got *[]byte) {
	p, _, _ := q.take(buf)
	*got = append(*got, p...)
	q.written()
}

// checkStream checks that got has the frames of want, with nothing but pings and
// pongs between them.
func checkStream(got []byte, want [][]byte) error {
	for i := 0; ; {
		if i < len(want) && bytes.HasPrefix(got, want[i]) {
			got, i = got[len(want[i]):], i+1
			continue
		}
		if len(got) >= 2 && (got[0] == frame.Ping || got[0] == frame.Pong) && got[1] == 0 && i < len(want) {
			got = got[2:]
			continue
		}
		if i == len(want) && len(got) == 0 {
			return nil
		}
		return fmt.Errorf("after %d of %d frames comes % x", i, len(want), got[:min(len(got), 20)])
	}
}

// full and busy say when a queue has no room for a message, or for a volatile one.
// Frames being written count.
func TestQueueBounds(t *testing.T) {
	config := Config{QueueMessages: 8, QueueBytes: 1000}
	for _, test := range []struct {
		frames, out, bytes int
		n                  int // the size of one more frame
		full, busy         bool
	}{
		{frames: 0, bytes: 0, n: 1000},
		{frames: 0, bytes: 0, n: 1001, full: true},
		{frames: 1, bytes: 250, n: 750},
		{frames: 1, bytes: 250, n: 751, full: true},
		{frames: 1, bytes: 251, n: 1, busy: true},
		{frames: 2, n: 1},
		{frames: 1, out: 1, n: 1},
		{frames: 3, n: 1, busy: true},
		{frames: 1, out: 2, n: 1, busy: true},
		{frames: 6, out: 1, n: 1, busy: true},
		{frames: 6, out: 2, n: 1, full: true, busy: true},
	} {
		var q queue
		for range test.frames {
			q.put(nil)
		}
		q.out, q.bytes = test.out, test.bytes
		if got := q.full(&config, test.n); got != test.full {
			t.Errorf("%+v: full: %v", test, got)
		}
		if got := q.busy(&config); got != test.busy {
			t.Errorf("%+v: busy: %v", test, got)
		}
		if q.blocked = true; !q.busy(&config) {
			t.Errorf("%+v: blocked and not busy", test)
		}
	}
}

// take returns a single or large frame as it is, others joined as far as they fit,
// and the close frame behind the last.
func TestQueueTake(t *testing.T) {
	const half = flushSize / 2
	for _, test := range []struct {
		frames []int // their sizes
		ping   bool
		closes bool

		out    int // the number of frames taken
		joined bool
		ends   bool // the close frame is taken too
	}{
		{},
		{frames: []int{100}, out: 1},
		{frames: []int{100, 100}, out: 2, joined: true},
		{frames: []int{half, 100}, out: 1},
		{frames: []int{half - 1, 100}, out: 2, joined: true},
		{frames: []int{100, half}, out: 2, joined: true},
		{frames: []int{100, flushSize - 100}, out: 2, joined: true},
		{frames: []int{100, flushSize - 99}, out: 1, joined: true},
		{frames: []int{flushSize + 1, 100}, out: 1},
		{frames: []int{100, 100, flushSize - 200, 1}, out: 3, joined: true},
		{ping: true, joined: true},
		{ping: true, frames: []int{100}, out: 1, joined: true},
		{ping: true, frames: []int{half, 100}, out: 2, joined: true},
		{closes: true, joined: true, ends: true},
		{closes: true, frames: []int{100}, out: 1, joined: true, ends: true},
		{closes: true, frames: []int{half}, out: 1},
		{closes: true, frames: []int{100, flushSize}, out: 1, joined: true},
	} {
		var q queue
		for _, n := range test.frames {
			q.put(make([]byte, n))
		}
		if q.ping = test.ping; test.closes {
			q.closeFrame = closeFrame(StatusNormal, "end")
		}
		if had := len(test.frames) > 0 || test.ping || test.closes; q.hasWork() != had {
			t.Errorf("%+v: there is work: %v", test, q.hasWork())
		}
		p, _, joined := q.take(make([]byte, 0, flushSize))
		ended := test.closes && q.closeFrame == nil
		if q.out != test.out || joined != test.joined || ended != test.ends || q.ping {
			t.Errorf("%+v: %d are taken, joined %v, with the close frame %v, the ping stays: %v", test, q.out, joined, ended, q.ping)
		}
		want := len(p)
		for _, n := range test.frames[:test.out] {
			want -= n
		}
		if test.ping {
			want -= 2
		}
		if test.ends {
			want -= len(closeFrame(StatusNormal, "end"))
		}
		if want != 0 {
			t.Errorf("%+v: there are %d bytes too many", test, want)
		}
		if n := q.written(); n != test.out || q.out != 0 || q.outBytes != 0 {
			t.Errorf("%+v: written are %d, left under way %d", test, n, q.out)
		}
	}
}

// The rest of a partial write is taken first, and alone. After clear nothing waits.
func TestQueueRest(t *testing.T) {
	var q queue
	q.put([]byte("frame"))
	q.ping = true
	q.rest = []byte("rest")
	if p, _, joined := q.take(nil); string(p) != "rest" || joined || !q.ping || q.out != 0 {
		t.Errorf("taken is %q, joined %v", p, joined)
	}
	q.rest = nil
	q.put([]byte("another"))
	if n := q.clear(); n != 2 || q.size() != 0 || q.bytes != 0 {
		t.Errorf("dropped are %d, %d stay, %d bytes", n, q.size(), q.bytes)
	}
}

// A full queue drops as many of its oldest messages as one more message needs, if
// that is possible.
func TestQueueMakesRoom(t *testing.T) {
	config := Config{QueueMessages: 8, QueueBytes: 1000}
	for _, test := range []struct {
		n       int
		dropped int
		fits    bool
	}{{300, 1, true}, {301, 2, true}, {1000, 8, true}, {1001, 8, false}} {
		var q queue
		for range 8 {
			q.put(make([]byte, 100))
		}
		if dropped, fits := q.makeRoom(&config, test.n); dropped != test.dropped || fits != test.fits || q.size() != 8-dropped || q.bytes != 100*q.size() {
			t.Errorf("for %d bytes %d are dropped, it fits: %v; %d bytes stay", test.n, dropped, fits, q.bytes)
		}
	}
}

// A client that can come back is told of each dropped message, whether or not older
// ones were dropped for it too.
func TestQueueTellsDropped(t *testing.T) {
	config := Config{QueueMessages: 8, QueueBytes: 1000}
	var q queue
	q.log = &connLog{session: &driver.Session{}}
	q.put(headed(&bare, Binary(make([]byte, 500)).frame()))
	q.takeFrame() // it is now being written
	for range 2 {
		if dropped, fits := q.makeRoom(&config, 600); dropped != 0 || fits {
			t.Fatalf("%d are dropped, it fits: %v", dropped, fits)
		}
		if q.frames.Len() != 1 || !same(q.frames.At(0).frame, anyGap) {
			t.Fatalf("%d frames wait, the first is not the Gap", q.frames.Len())
		}
	}
	q.takeFrame()
	if q.makeRoom(&config, 600); q.frames.Len() != 1 {
		t.Error("the second time it is not told")
	}
}

// For a client that can come back, the oldest messages are dropped until a quarter
// of the queue is free. A Gap stands in their place.
func TestQueueMakesMoreRoom(t *testing.T) {
	message := func(size int) []byte {
		empty := len(headed(&bare, Binary(nil).frame()))
		return headed(&bare, Binary(make([]byte, size-empty)).frame())
	}
	for name, test := range map[string]struct {
		config Config
		size   int // the size of each of eight messages
		do     func(q *queue, config *Config)
		left   int // the number of messages that stay
	}{
		"too many": {
			config: Config{QueueMessages: 8, QueueBytes: 1000}, size: 40, left: 5,
			do: func(q *queue, config *Config) { q.makeRoom(config, 40) },
		},
		"too large": {
			config: Config{QueueMessages: 100, QueueBytes: 1000}, size: 120, left: 5,
			do: func(q *queue, config *Config) { q.makeRoom(config, 750-5*120-len(anyGap)) },
		},
		"larger by a byte": {
			config: Config{QueueMessages: 100, QueueBytes: 1000}, size: 120, left: 4,
			do: func(q *queue, config *Config) { q.makeRoom(config, 750-5*120-len(anyGap)+1) },
		},
		"three given up": {size: 100, left: 5, do: func(q *queue, _ *Config) { q.giveUp(3) }},
	} {
		t.Run(name, func(t *testing.T) {
			q := queue{log: &connLog{session: &driver.Session{}}}
			for range 8 {
				q.put(message(test.size))
			}
			test.do(&q, &test.config)
			if q.frames.Len() != 1+test.left || q.bytes != len(anyGap)+test.left*test.size {
				t.Fatalf("left are %d frames of %d bytes, want a Gap and %d messages", q.frames.Len(), q.bytes, test.left)
			}
			for i := range q.frames.Len() {
				if gap := same(q.frames.At(i).frame, anyGap); gap != (i == 0) {
					t.Errorf("frame %d is a Gap: %v", i, gap)
				}
			}
		})
	}
}

// Messages that were read from the log take no room in the queue until they are
// written.
func TestQueueReplayed(t *testing.T) {
	config := Config{QueueMessages: 8, QueueBytes: 1000}
	q := queue{log: &connLog{replayed: 700}}
	q.put(make([]byte, 300))
	q.put(make([]byte, 500))
	fits := func(when string, n int) {
		t.Helper()
		if q.full(&config, n) || !q.full(&config, n+1) {
			t.Errorf("%s: room for %d bytes: %v, for one more: %v", when, n, !q.full(&config, n), !q.full(&config, n+1))
		}
	}
	fits("at first", 1000-100)
	q.takeFrame()
	q.written()
	fits("some is written", 1000-100)
	q.takeFrame()
	q.written()
	fits("all is written", 1000)
}

// Until the welcome is written, no ping and no pong is.
func TestQueueGreets(t *testing.T) {
	welcome := lineFrame(&protocol.Frame{Frame: device.Frame{Kind: device.Welcome}})
	q := queue{log: &connLog{session: &driver.Session{}}, ping: true, pongs: []byte{frame.Pong, 0}}
	q.put(welcome)
	p, _, _ := q.take(nil)
	if !bytes.Equal(p, welcome) {
		t.Errorf("before the welcome goes % x", p)
	}
	q.written()
	if p, _, _ = q.take(nil); !bytes.Equal(p, []byte{frame.Pong, 0, frame.Ping, 0}) {
		t.Errorf("after it goes % x", p)
	}
}

// A message replaces the one with its key. A message without a key replaces none. A
// queue that has never seen a key has no older message.
func TestQueueKeys(t *testing.T) {
	var bare queue
	if i, n := bare.older(nil); i != -1 || n != 0 {
		t.Errorf("without a key there is an older one at %d, of %d bytes", i, n)
	}
	if i, n := bare.older(new(conflate.Key)); i != -1 || n != 0 {
		t.Errorf("in an empty queue there is an older one at %d, of %d bytes", i, n)
	}
	if n := bare.empty(); n != 0 {
		t.Errorf("of an empty queue %d messages are dropped", n)
	}
	h := newHub(t, Config{})
	c := newBareConn(t, h)
	var sending sync.WaitGroup
	sending.Go(func() { // in its own goroutine a panic ends the process; in the test's, cleanups would wait for c.mu
		for n, key := range []*conflate.Key{nil, new(conflate.Key), nil, new(conflate.Key)} {
			if err := c.enqueue(numbered(n, 8).frame(), false, key); err != nil {
				t.Error(err)
			}
		}
	})
	sending.Wait()
	if q := queueOf(c); q.frames.Len() != 3 || h.Stats().Conflated != 1 {
		t.Errorf("%d wait, and %d gave up their place", q.frames.Len(), h.Stats().Conflated)
	}
}

// Protocol lines for a client that can come back are not messages: they are not
// counted, and stay when messages are given up.
func TestQueueCountsMessages(t *testing.T) {
	newQueue := func() *queue {
		q := &queue{log: &connLog{session: &driver.Session{}}}
		place := history.Point{Epoch: 1, Offset: 5}
		for range 3 {
			q.put(lineFrame(&protocol.Frame{Frame: device.Frame{Kind: device.Mark, At: place, Verdict: device.Complete}}))
			q.put(headed(&bare, Text("hello").frame()))
		}
		return q
	}
	q := newQueue()
	q.takeFrame()
	q.takeFrame()
	if n := q.written(); n != 1 {
		t.Errorf("of a mark and a message %d are written", n)
	}
	q.takeFrame()
	if n := q.written(); n != 0 {
		t.Errorf("of a mark %d are written", n)
	}
	if n := q.clear(); n != 2 {
		t.Errorf("of a mark and two messages %d are dropped", n)
	}
	q = newQueue()
	q.takeFrame()
	q.takeFrame()
	if n := q.empty(); n != 3 {
		t.Errorf("of three messages, one of them under way, %d are dropped", n)
	}
	q = newQueue()
	message := q.frames.At(1).frame
	given := q.giveUp(2)
	if len(given) != 2 || given[0].end != &message[len(message)-1] || q.messages() != 1 {
		t.Errorf("%d are given up, and %d stay", len(given), q.messages())
	}
}

// Messages from the log are conflated too, but not with those of another log or of
// none. Otherwise a client that comes back again would get the older one after the
// newer.
func TestQueueConflatesLog(t *testing.T) {
	h := newHub(t, Config{})
	c := newBareConn(t, h)
	l := &connLog{c: c, session: &driver.Session{}}
	c.queue.log = l
	key := func(log uint8) *conflate.Key { return &conflate.Key{Sum: conflate.Sum{1}, Log: log} }
	message := func(text string) []byte { return headed(&bare, Text(text).frame()) }
	put := func(text string, log uint8) {
		b := message(text)
		l.put(b, len(b), key(log))
	}
	put("1 of log 1", 1)
	put("1 of log 2", 2)
	if err := c.enqueue(message("1 of none"), false, key(0)); err != nil {
		t.Fatal(err)
	}
	l.put(lineFrame(&protocol.Frame{Frame: device.Frame{Kind: device.Mark, At: history.Point{Epoch: 1, Offset: 5}}}), 0, nil)
	put("2 of log 1", 1)
	put("3 of log 1, which is longer", 1)
	if err := c.enqueue(message("2 of none"), false, key(0)); err != nil {
		t.Fatal(err)
	}
	var got []string
	for i := range c.queue.frames.Len() {
		payload, _ := frame.Payload(c.queue.frames.At(i).frame)
		if line, text, _ := strings.Cut(string(payload), "\n"); text != "" {
			got = append(got, text)
		} else {
			got = append(got, line[:1])
		}
	}
	if want := []string{"1 of log 2", "p", "3 of log 1, which is longer", "2 of none"}; !slices.Equal(got, want) {
		t.Errorf("%q wait, want %q", got, want)
	}
	if want := len(message("1 of log 2")) + len(message("3 of log 1, which is longer")); l.replayed != want {
		t.Errorf("%d bytes do not count, want %d", l.replayed, want)
	}
	if s := h.Stats(); s.Conflated != 3 {
		t.Errorf("%d are conflated", s.Conflated)
	}
}

// Of the marks that wait behind all messages, each partition keeps one.
func TestQueueMarks(t *testing.T) {
	q := &queue{log: &connLog{session: &driver.Session{}}}
	put := func(partition int, offset history.Offset, verdict device.Verdict) {
		f := device.Frame{Kind: device.Mark, Partition: partition, At: history.Point{Epoch: 1, Offset: offset}, Verdict: verdict}
		if b := lineFrame(&protocol.Frame{Frame: f}); !q.remark(b) {
			q.put(b)
		}
	}
	put(0, 1, device.Complete)
	for i := range history.Offset(100) {
		put(0, 9+i, device.NoVerdict)
		put(1, 9+i, device.NoVerdict)
	}
	q.put(headed(&bare, Text("hello").frame()))
	put(1, 200, device.NoVerdict)
	var got []string
	bytes := 0
	for i := range q.frames.Len() {
		f := q.frames.At(i).frame
		payload, _ := frame.Payload(f)
		got, bytes = append(got, strings.TrimSpace(string(payload))), bytes+len(f)
	}
	want := []string{"p 0.1.1 complete", "p 0.1.108", "p 1.1.108", "m\nhello", "p 1.1.200"}
	if !slices.Equal(got, want) || q.bytes != bytes {
		t.Errorf("%q wait, and count %d bytes, not %d", got, q.bytes, bytes)
	}
	q.clear()
	for i := range history.Offset(2) { // these marks wait behind no message at all
		put(0, 9+i, device.NoVerdict)
	}
	if q.frames.Len() != 1 {
		t.Errorf("%d marks of one partition wait", q.frames.Len())
	}
}

// Pongs wait as long as they fit, to the byte. One that does not fit takes the
// place of all.
func TestQueuePongs(t *testing.T) {
	last := func(fits bool) string { // after sixteen of the longest pongs
		c := newBareConn(t, newHub(t, Config{}))
		for range 16 {
			c.pong(make([]byte, 125))
		}
		room := maxPongs - 16*(2+125)
		if !fits {
			room++
		}
		c.pong(bytes.Repeat([]byte{'x'}, room-2))
		return string(queueOf(c).pongs)
	}
	if pongs := last(true); len(pongs) != maxPongs || !strings.HasPrefix(pongs, "\x8a\x7d\x00") {
		t.Errorf("%d bytes wait, want all %d", len(pongs), maxPongs)
	}
	if pongs := last(false); pongs != "\x8a\x0f"+strings.Repeat("x", 15) {
		t.Errorf("%q wait, want the last", pongs)
	}
}

// A Conn that has something to write is given to a writer, or to a drain if it is
// not plain TCP. Until that gives it back, nobody else gets it.
func TestQueueClaim(t *testing.T) {
	h := newHub(t, Config{})
	_, tcp := tcpPair(t)
	for raw, want := range map[syscall.RawConn]owner{nil: ownerDrain, rawio.Conn(tcp): ownerWriter} {
		c := newBareConn(t, h)
		c.socket.raw = raw
		c.state = connOpen
		if got := c.claim(); got != ownerNone {
			t.Errorf("nothing to write is given to %v", got)
		}
		c.queue.put([]byte("frame"))
		c.state = connHeld
		if got := c.claim(); got != ownerNone {
			t.Errorf("what must not be written yet is given to %v", got)
		}
		c.state = connOpen
		if got := c.claim(); got != want || c.queue.owner != want {
			t.Errorf("it is given to %v, want %v", got, want)
		}
		if got := c.claim(); got != ownerNone || c.queue.owner != want {
			t.Errorf("what is %v's is given to %v", want, got)
		}
		if want == ownerDrain {
			h.wg.Done() // the drain was never started
		}
	}
}

// start puts a Conn that a writer owns on that writer's list, and starts the drain
// of one that a drain owns.
func TestQueueStart(t *testing.T) {
	for _, o := range []owner{ownerWriter, ownerDrain} {
		w := &writer{wake: wake.New()} // it does not run
		c := &Conn{hub: &Hub{writers: &writers{all: []*writer{w}}}}
		c.socket.conn, _ = net.Pipe()
		if c.queue.owner = o; o == ownerDrain {
			c.claimDrain()
		}
		c.start(o)
		if listed := slices.Contains(w.list, c); listed != (o == ownerWriter) {
			t.Fatalf("%v: on the writer's list %v", o, listed)
		}
		c.hub.wg.Wait()
		if given := c.queue.owner == ownerNone; given != (o == ownerDrain) {
			t.Errorf("%v: given back %v", o, given)
		}
	}
}

// newBareConn returns a Conn of h without a socket: queued frames stay in its
// queue.
func newBareConn(t *testing.T, h *Hub) *Conn {
	t.Helper()
	c := h.newConn(httptest.NewRequest("GET", "/", nil), Identity{User: "u"})
	t.Cleanup(func() { c.cancel(nil) })
	return c
}

// A volatile message that does not fit is dropped, even if it is larger than the
// whole queue. It closes no Conn, and no other message is dropped for it.
func TestVolatileNeverCloses(t *testing.T) {
	for _, dropOldest := range []bool{false, true} {
		h := newHub(t, Config{MaxSendSize: 1 << 20, QueueBytes: 1<<20 + frameRoom, DropOldest: dropOldest})
		c := newBareConn(t, h)
		if err := c.Send(Binary(make([]byte, 100))); err != nil {
			t.Fatal(err)
		}
		if err := c.Send(Binary(make([]byte, 1<<20)).Volatile()); err != nil {
			t.Errorf("Send: %v", err)
		}
		if q := queueOf(c); c.isClosing() || q.size() != 1 {
			t.Errorf("closing %v, %d messages wait", c.isClosing(), q.size())
		}
		if s := h.Stats(); s.DroppedVolatile != 1 || s.Dropped != 0 || s.TooSlow != 0 {
			t.Errorf("%+v", s)
		}
	}
}

// The messages that a full queue drops are counted, and the bytes that a large one
// holds are charged.
func TestQueueCounts(t *testing.T) {
	h := newHub(t, Config{QueueMessages: 2, DropOldest: true})
	c := newBareConn(t, h)
	for range 3 {
		if err := c.Send(Binary(make([]byte, smallQueue))); err != nil {
			t.Fatal(err)
		}
	}
	if s := h.Stats(); s.Dropped != 1 {
		t.Errorf("%d messages were dropped, want 1", s.Dropped)
	}
	if charged := h.budget.in.Load() - h.budget.out.Load(); charged < 2*smallQueue {
		t.Errorf("%d bytes are charged", charged)
	}
}

// However many senders find a queue full at once, its Conn is closed and counted
// once. One that is already closing is not counted as too slow.
func TestTooSlowCountsOnce(t *testing.T) {
	h := newHub(t, Config{QueueMessages: 1})
	const conns, senders = 300, 8
	for range conns {
		c := newBareConn(t, h)
		c.Send(Text("fits"))
		start := make(chan struct{})
		var sending sync.WaitGroup
		for range senders {
			sending.Go(func() {
				<-start
				if err := c.Send(Text("too many")); !errors.Is(err, ErrTooSlow) && !errors.Is(err, ErrClosed) {
					t.Errorf("Send: %v", err)
				}
			})
		}
		close(start)
		sending.Wait()
	}
	c := newBareConn(t, h)
	c.Close(StatusNormal, "")
	c.tooSlow(&h.stats.tooSlow) // like a sender that found it full just before
	// Each Conn drops its first message and all that did not fit.
	if s := h.Stats(); s.TooSlow != conns || s.Dropped != conns*(senders+1) {
		t.Errorf("TooSlow %d, Dropped %d, of %d", s.TooSlow, s.Dropped, conns)
	}
}

// Before many writes a writer waits a moment, so that frames queued meanwhile share
// them. It does not wait before few writes, nor again while it is busy.
func TestWriterGathers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ws := newWriters(1)
		defer ws.close()
		w := ws.all[0]
		// hand gives the writer n Conns that have nothing to write, and returns the
		// last of them.
		hand := func(n int) (last *Conn) {
			w.mu.Lock()
			for range n {
				last = &Conn{}
				last.queue.owner = ownerWriter
				w.list = append(w.list, last)
			}
			w.mu.Unlock()
			w.wake.Set()
			synctest.Wait()
			return last
		}
		await := func(c *Conn) (waited time.Duration) {
			for ; ; waited += gather / 10 {
				c.mu.Lock()
				done := c.queue.owner == ownerNone
				c.mu.Unlock()
				if done {
					return waited
				}
				time.Sleep(gather / 10)
				synctest.Wait()
			}
		}
		for range 2 {
			if d := await(hand(many - 1)); d != 0 {
				t.Errorf("few Conns waited for %v", d)
			}
			first := hand(many)
			second := hand(many)
			if d := await(first); d != gather {
				t.Errorf("many Conns waited for %v", d)
			}
			if d := await(second); d != 0 {
				t.Errorf("many more waited for %v again", d)
			}
		}
	})
}

// A ping that overtakes queued frames does not carry the token of a fence among
// them.
func TestPingBeforeFences(t *testing.T) {
	r := newPipeRig(t, Config{PingInterval: -1})
	c := &Conn{hub: r.Hub}
	token := func(p []byte) uint64 {
		t.Helper()
		if len(p) < 10 || p[0] != frame.Ping || p[1] != 8 {
			t.Fatalf("% x is no ping with a token", p)
		}
		return binary.BigEndian.Uint64(p[2:])
	}
	fenced := func(n uint64) []byte {
		return receipts.AppendFence(Text("m").frame(), receipts.Token(n))
	}
	c.enqueueFenced(fenced(1), false, nil, receipts.Wanted{Until: math.MaxInt64}, 1)
	c.queue.ping = true
	p, _, _ := c.queue.take(nil)
	if !bytes.Equal(p, append([]byte{frame.Ping, 0}, fenced(1)...)) {
		t.Errorf("% x", p)
	}
	c.queue.written()
	c.enqueueFenced(fenced(2), false, nil, receipts.Wanted{Until: math.MaxInt64}, 2)
	c.queue.ping = true
	p, _, _ = c.queue.take(nil)
	if token(p) != 1 || !bytes.Equal(p[10:], fenced(2)) {
		t.Errorf("% x", p)
	}
	c.queue.written()
	c.queue.ping = true
	if p, _, _ = c.queue.take(nil); token(p) != 2 {
		t.Errorf("% x", p)
	}
	if !c.receipt(p[2:10]) || c.queue.fences != nil {
		t.Error("the newest pong does not answer all")
	}
	c.queue.ping = true
	if p, _, _ = c.queue.take(nil); !bytes.Equal(p, []byte{frame.Ping, 0}) {
		t.Errorf("without fences: % x", p)
	}
}

// kindOf tells messages from frames that a queue must not drop, also with a fence
// behind them.
func TestKindOf(t *testing.T) {
	for want, f := range map[byte][]byte{'m': headed(&bare, Text("x").frame()), 'g': anyGap, 0: Text("").frame()} {
		for _, f := range [][]byte{f, receipts.AppendFence(slices.Clone(f), 7)} {
			if got := kindOf(f); got != want {
				t.Errorf("% x is of kind %q, want %q", f, got, want)
			}
		}
	}
	if probe := receipts.AppendFence(nil, 'm'<<56); kindOf(probe) != 0 {
		t.Error("a probe is taken for a message")
	}
}
