package wake

import "testing"

// However often it was set, a Signal is received once, and can be set again.
func TestSignal(t *testing.T) {
	s := New()
	for range 2 {
		select {
		case <-s:
			t.Fatal("it is set")
		default:
		}
		s.Set()
		s.Set()
		<-s
	}
}
