package herald

import (
	"testing"
	"testing/synctest"
	"time"
)

// A link is busy while much comes, and neither for a few messages together nor
// long after.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p pace
		// read is a read of so many messages, and the rest after it.
		read := func(messages int, after time.Duration) (rested bool) {
			p.messages += messages
			rested = p.next()
			time.Sleep(after)
			return rested
		}
		for range 1000 {
			if read(1, time.Millisecond) {
				t.Fatal("1,000 messages a second are too many")
			}
		}
		for range 100 {
			if read(40, 20*time.Millisecond) {
				t.Fatal("2,000 messages a second are too many")
			}
		}
		busy := func(messages int, d time.Duration) (rests int) {
			for range d / time.Millisecond {
				if read(messages, time.Millisecond) {
					rests++
				}
			}
			return rests
		}
		if n := busy(5, time.Second); n < 950 {
			t.Errorf("of 1,000 reads at 5,000 messages a second %d rested", n)
		}
		if n := busy(3, time.Second); n != 1000 {
			t.Errorf("of 1,000 reads at 3,000 messages a second %d rested: the link was busy", n)
		}
		if n := busy(1, time.Second); n > 2*quietRests {
			t.Errorf("at 1,000 messages a second %d reads rested", n)
		}
	})
}
