package heraldclient

import (
	"errors"
	"slices"
	"testing"
	"time"
)

// Waits are spread evenly below a bound that doubles ("full jitter").
func TestJitter(t *testing.T) {
	const n = 4000
	for tries, bound := range []time.Duration{1, 2, 4, 8, 16, 30, 30, 30} {
		bound *= time.Second
		var waits []time.Duration
		for range n {
			b := backoff{min: time.Second, max: 30 * time.Second, tries: tries}
			waits = append(waits, b.wait(errors.New("cut")))
		}
		slices.Sort(waits)
		if waits[0] < 0 || waits[n-1] > bound {
			t.Errorf("try %d: waits from %v to %v", tries, waits[0], waits[n-1])
		}
		// A quantile lies within 0.05 of its place: six times its deviation.
		for i := 1; i < 10; i++ {
			want := bound * time.Duration(i) / 10
			if got := waits[n*i/10]; (got - want).Abs() > bound/20 {
				t.Errorf("try %d: %d0%% of the waits are below %v, not %v", tries, i, got, want)
			}
		}
	}
}

// What ended a connection decides how long the next one waits.
func TestWait(t *testing.T) {
	code := func(code int) error { return &CloseError{Code: code} }
	for _, test := range []struct {
		name  string
		tries int
		err   error
		bound time.Duration
		next  int
	}{
		{"cut off", 0, errors.New("cut"), time.Second, 1},
		{"service restart", 2, code(1012), 4 * time.Second, 3},
		{"try again later", 0, code(1013), 16 * time.Second, 5},
		{"try again later, long since", 9, code(1013), 30 * time.Second, 10},
		{"503", 1, code(4503), 16 * time.Second, 5},
		{"429", 1, code(4429), 16 * time.Second, 5},
		{"policy violation", 0, code(1008), 16 * time.Second, 5},
		{"too slow", 0, code(4408), time.Second, 1},
		{"token expired", 0, code(4410), time.Second, 1},
		{"a day of tries", 1 << 20, errors.New("cut"), 30 * time.Second, 1<<20 + 1},
	} {
		most := time.Duration(0)
		for range 2000 {
			b := backoff{min: time.Second, max: 30 * time.Second, tries: test.tries}
			most = max(most, b.wait(test.err))
			if b.tries != test.next {
				t.Fatalf("%s: it is try %d", test.name, b.tries)
			}
		}
		if most > test.bound || most < test.bound*9/10 {
			t.Errorf("%s: it waits for %v at most, not %v", test.name, most, test.bound)
		}
	}
	for tries := range 100 { // the bound does not overflow
		b := backoff{min: 24 * time.Hour, max: 24 * time.Hour, tries: tries}
		if d := b.wait(nil); d < 0 || d > 24*time.Hour {
			t.Errorf("try %d waits for %v", tries, d)
		}
	}
}
