package herald

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"

	"github.com/heraldgo/herald/internal/wsframe"
)

// A queue is put through any order of what may happen to it. What it gives
// out is whole frames in their order, without those that were dropped; control
// frames lie between them, and the close frame is the last.
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
				at := written + q.out // what is under way stays
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
			p, joined := q.take(buf)
			if p == nil {
				return
			}
			for range random.IntN(3) { // what is queued meanwhile does not matter to p
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
				clear(buf[:cap(buf)]) // another Conn's turn
				p, _ = q.take(buf)
				got = append(got, p...)
			}
			written += q.written()
		}
		for range 100 {
			switch random.IntN(10) {
			case 0:
				q.pong = []byte{wsframe.Pong, 0}
			case 1:
				q.ping = true
			case 2, 3, 4, 5:
				put()
			default:
				flush()
			}
			sum := q.outBytes
			for i := range q.frames.Len() {
				sum += len(*q.frames.At(i))
			}
			if sum != q.bytes || q.size() > config.QueueMessages || q.bytes > config.QueueBytes {
				t.Fatalf("seed %d: %d frames, %d bytes counted, %d there", seed, q.size(), q.bytes, sum)
			}
		}
		if q.closeFrame = closeFrame(StatusNormal, "end"); random.IntN(2) == 0 {
			want = want[:len(want)-q.clear()]
		}
		for q.hasWork() {
			flush1(&q, buf, &got)
		}
		if err := checkStream(got, append(want, closeFrame(StatusNormal, "end"))); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if q.frames.Buf != nil || q.first[0] != nil || q.rest != nil || q.bytes != 0 || q.out != 0 {
			t.Fatalf("seed %d: an empty queue holds %d frames, %d bytes", seed, q.size(), q.bytes)
		}
	}
}

func flush1(q *queue, buf []byte, got *[]byte) {
	p, _ := q.take(buf)
	*got = append(*got, p...)
	q.written()
}

// checkStream says whether got is the frames of want, and pings and pongs
// between them.
func checkStream(got []byte, want [][]byte) error {
	for i := 0; ; {
		if i < len(want) && bytes.HasPrefix(got, want[i]) {
			got, i = got[len(want[i]):], i+1
			continue
		}
		if len(got) >= 2 && (got[0] == wsframe.Ping || got[0] == wsframe.Pong) && got[1] == 0 && i < len(want) {
			got = got[2:]
			continue
		}
		if i == len(want) && len(got) == 0 {
			return nil
		}
		return fmt.Errorf("after %d of %d frames comes % x", i, len(want), got[:min(len(got), 20)])
	}
}

// newBareConn returns a Conn of h without a socket: what is queued stays.
func newBareConn(t *testing.T, h *Hub) *Conn {
	t.Helper()
	c := h.newConn(httptest.NewRequest("GET", "/", nil), Identity{User: "u"})
	t.Cleanup(func() { c.cancel(nil) })
	return c
}

// A volatile message that does not fit is dropped, be it larger than all the
// room there is: it closes no Conn, and evicts nobody.
func TestVolatileNeverCloses(t *testing.T) {
	for _, dropOldest := range []bool{false, true} {
		h := newHub(t, Config{MaxSendSize: 1 << 20, QueueBytes: 1<<20 + wsframe.MaxHeader, DropOldest: dropOldest})
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

// However many find a queue full at once, its Conn is closed for it once. One
// that is closing already is not too slow.
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
	if c.tooSlow() { // as one that found it full just before
		t.Error("closed twice")
	}
	// Dropped are the first one of each Conn, and all that came too many.
	if s := h.Stats(); s.TooSlow != conns || s.Dropped != conns*(senders+1) {
		t.Errorf("TooSlow %d, Dropped %d, of %d", s.TooSlow, s.Dropped, conns)
	}
}
