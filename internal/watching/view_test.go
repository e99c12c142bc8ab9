package watching

import (
	"fmt"
	"testing"
)

// As many changes wait as may be, for those that precede them and for a list, and not
// one more.
func TestViewBounds(t *testing.T) {
	none := func(Session, bool) {}
	for _, n := range []int{maxEarly, maxEarly + 1} {
		v := newView()
		v.ask()
		for i := range n {
			v.change(Change{Number: int64(i + 2), Session: Session{ID: fmt.Sprint(i)}}, none)
		}
		if len(v.early) != maxEarly {
			t.Errorf("of %d changes %d wait", n, len(v.early))
		}
		if taken := v.list(1, nil, none); taken != (n <= maxEarly) {
			t.Errorf("after %d changes the list is taken: %v", n, taken)
		}
		if v.listed && len(v.there) != n {
			t.Errorf("of %d who came %d are there", n, len(v.there))
		}
	}
}
