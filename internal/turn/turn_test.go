package turn

import (
	"sync"
	"sync/atomic"
	"testing"
)

// Reading ahead ends before the reader goes on.
func TestAhead(t *testing.T) {
	var turn Turn
	if turn.BeginAhead() {
		t.Fatal("keepalive has taken the reader's turn")
	}
	turn.Pass(Nobody)
	if !turn.BeginAhead() || turn.BeginAhead() || turn.Is(Awaited) {
		t.Fatal("keepalive has not the turn, or has it twice")
	}
	over := turn.Reclaim()
	if over == nil || !turn.Is(Awaited) {
		t.Fatal("the reader does not wait for the reading ahead")
	}
	select {
	case <-over:
		t.Fatal("it is over before its end")
	default:
	}
	turn.EndAhead()
	<-over
	if !turn.Is(Reader) {
		t.Fatal("the reader has not the turn")
	}
	turn.Pass(Nobody)
	turn.BeginAhead()
	turn.EndAhead()
	if turn.Reclaim() != nil || !turn.Is(Reader) {
		t.Fatal("the reader waits for nobody")
	}
}

// Of all who try to take a turn from one state, one gets it.
func TestExchange(t *testing.T) {
	var turn Turn
	for range 1000 {
		turn.Pass(Parked)
		var taken atomic.Int32
		var group sync.WaitGroup
		for _, to := range []State{Reader, Polled, Reader} {
			group.Go(func() {
				if turn.Exchange(Parked, to) {
					taken.Add(1)
				}
			})
		}
		group.Wait()
		if taken.Load() != 1 || turn.Is(Parked) {
			t.Fatalf("%d have taken it", taken.Load())
		}
	}
}
