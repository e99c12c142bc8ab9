package lag

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heraldgo/herald/internal/clock"
	"github.com/heraldgo/herald/internal/histogram"
)

// A message is followed until it has left, whatever comes behind it and is given up
// before it.
func TestMeter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m Meter
		var told, want histogram.Histogram
		age := func(want time.Duration) {
			t.Helper()
			if got := m.Age(); got != want {
				t.Errorf("the age is %v, want %v", got, want)
			}
		}
		m.Passed(3)
		age(0)
		m.Begin(clock.Now(), 4, nil)
		time.Sleep(time.Second)
		age(time.Second)
		m.Begin(clock.Now(), 9, &told) // it follows one already
		m.Passed(1)
		m.Dropped(1, 1)
		time.Sleep(time.Second)
		age(2 * time.Second)
		m.Passed(1)
		if !slices.Equal(told.Counts().Buckets[:], want.Counts().Buckets[:]) {
			t.Error("told of one that waits")
		}
		m.Passed(1)
		want.Observe(2 * time.Second)
		if *told.Counts() != *want.Counts() {
			t.Errorf("told %v", told.Counts())
		}
		time.Sleep(time.Minute)
		age(2 * time.Second) // the best guess, for what is left waits behind it

		m.Begin(clock.Now(), 2, nil)
		time.Sleep(time.Second)
		age(2 * time.Second)
		m.Passed(2)
		age(time.Second)
		if *told.Counts() != *want.Counts() {
			t.Errorf("told of one that nobody asked for: %v", told.Counts())
		}
	})
}

// Of a message that is given up nobody is told.
func TestMeterDropped(t *testing.T) {
	var m Meter
	var told, none histogram.Histogram
	m.Begin(clock.Now(), 3, &told)
	m.Dropped(0, 3)
	m.Passed(1)
	m.Begin(clock.Now(), 1, nil)
	m.Passed(1)
	if *told.Counts() != *none.Counts() {
		t.Errorf("told %v", told.Counts())
	}
	m.Begin(clock.Now(), 3, nil)
	m.Dropped(1, 5)
	m.Passed(1)
	if m.ahead != 0 {
		t.Errorf("%d are ahead of one that has left", m.ahead)
	}
	var nobody *Meter
	nobody.Passed(1)
	nobody.Dropped(0, 1)
	if nobody.Age() != 0 {
		t.Error("a nil Meter has an age")
	}
}
