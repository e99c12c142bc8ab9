package uplink_test

import (
	"sync"
	"testing"
	"testing/synctest"

	"github.com/heraldgo/herald/internal/uplink"
)

// Each of many that wait for a probe hears of it, or of a later one.
func TestEcho(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var e uplink.Echo
		var waiting sync.WaitGroup
		for want := range uint64(50) {
			waiting.Go(func() {
				for {
					last, changed := e.Last()
					if last >= want {
						return
					}
					<-changed
				}
			})
		}
		for _, n := range []uint64{3, 2, 1, 40, 7, 49} {
			synctest.Wait()
			e.Hear(n)
		}
		waiting.Wait()
		last, changed := e.Last()
		if last != 49 {
			t.Errorf("last is %d, want 49", last)
		}
		// One that comes twice is no news.
		e.Hear(49)
		select {
		case <-changed:
			t.Error("the same probe woke who waits for another")
		default:
		}
	})
}
