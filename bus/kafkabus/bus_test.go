package kafkabus_test

import (
	"testing"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/bus/kafkabus"
	"github.com/heraldgo/herald/heraldtest"
)

// patient proves the links ten times a second, and does not call one dead on
// a machine that is busy; quick soon does.
var (
	patient = kafkabus.Options{ProbeInterval: time.Second / 10, ProbeTimeout: 10 * time.Second}
	quick   = kafkabus.Options{ProbeInterval: time.Second / 10, ProbeTimeout: 2 * time.Second}
)

func TestBus(t *testing.T) {
	heraldtest.TestBus(t, func(t testing.TB) heraldtest.BusNetwork {
		b := startFake(t)
		other := patient
		other.Topic = "other"
		return heraldtest.BusNetwork{
			Open:      func() herald.Bus { return b.open(patient) },
			Interrupt: b.cut,
			Other:     func() herald.Bus { return b.open(other) },
		}
	})
}
