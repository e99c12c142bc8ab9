package inbox

import (
	"testing"
	"testing/synctest"
)

func newInts() *Inbox[int] {
	return New(Config[int]{Size: func(int) int { return 1 }, MaxItems: 1 << 20, MaxBytes: 1 << 20})
}

// What has been received takes no room for long: the rest is moved over once
// that is more than is kept anyway, and more than half of the queue.
func TestMemoryOfReceived(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, test := range []struct{ queued, want int }{{keep + 10, keep + 1}, {4 * keep, 2*keep + 1}} {
			b := newInts()
			for i := range test.queued {
				b.Push([]int{i}, -1)
			}
			moved := 0
			for i := range test.queued {
				if e, err := b.Receive(t.Context()); e != i || err != nil {
					t.Fatalf("event %d is %d, %v", i, e, err)
				}
				if moved == 0 && b.head == 0 {
					moved = i + 1
				}
			}
			if moved != test.want {
				t.Errorf("of %d the rest moved after %d, want %d", test.queued, moved, test.want)
			}
		}
	})
}

// An empty queue keeps little memory.
func TestMemoryOfEmpty(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, room := range []int{1, keep, keep + 1} {
			b := newInts()
			b.queue = make([]int, 0, room)
			b.Push([]int{1}, -1)
			if _, err := b.Receive(t.Context()); err != nil {
				t.Fatal(err)
			}
			if kept := cap(b.queue) > 0; kept != (room <= keep) {
				t.Errorf("room for %d events is kept: %v", room, kept)
			}
		}
	})
}
