package clock

import (
	"testing"
	"testing/synctest"
	"time"
)

// The clock is above 0, also in a bubble, and goes as time does.
func TestNow(t *testing.T) {
	if Now() <= 0 {
		t.Errorf("it is %d", Now())
	}
	synctest.Test(t, func(t *testing.T) {
		before := Now()
		time.Sleep(time.Second)
		if after := Now(); before <= 0 || after-before != int64(time.Second) {
			t.Errorf("it was %d and is %d after a second", before, after)
		}
	})
}
