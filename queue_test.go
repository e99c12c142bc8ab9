package herald

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
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
				before := len(q.frames)
				dropped := q.makeRoom(&config, len(frame))
				if dropped != before-len(q.frames) {
					t.Fatalf("dropped %d of %d, %d stay", dropped, before, len(q.frames))
				}
				at := written + q.out // what is under way stays
				want = slices.Delete(want, at, at+dropped)
				if q.full(&config, len(frame)) {
					return
				}
			}
			q.frames, q.bytes, want = append(q.frames, frame), q.bytes+len(frame), append(want, frame)
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
				q.pong = []byte{finalPong, 0}
			case 1:
				q.ping = true
			case 2, 3, 4, 5:
				put()
			default:
				flush()
			}
			sum := 0
			for _, f := range q.frames {
				sum += len(f)
			}
			if sum != q.bytes || len(q.frames) > config.QueueMessages || q.bytes > config.QueueBytes {
				t.Fatalf("seed %d: %d frames, %d bytes counted, %d there", seed, len(q.frames), q.bytes, sum)
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
		if q.frames != nil || q.rest != nil || q.bytes != 0 || q.out != 0 {
			t.Fatalf("seed %d: an empty queue holds %d frames, %d bytes", seed, len(q.frames), q.bytes)
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
		if len(got) >= 2 && (got[0] == finalPing || got[0] == finalPong) && got[1] == 0 && i < len(want) {
			got = got[2:]
			continue
		}
		if i == len(want) && len(got) == 0 {
			return nil
		}
		return fmt.Errorf("after %d of %d frames comes % x", i, len(want), got[:min(len(got), 20)])
	}
}
