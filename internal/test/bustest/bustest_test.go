package bustest_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/test/bustest"
)

// A bus lets a test tamper with each Publish.
type bus struct {
	herald.Bus
	tamper func(i int, publish func() error) error

	published int
}

func (b *bus) Publish(ctx context.Context, packets ...herald.Packet) error {
	publish := func() error { return b.Bus.Publish(ctx, packets...) }
	defer func() { b.published++ }()
	return b.tamper(b.published, publish)
}

// A judge is a testing.TB that collects the errors of a test.
type judge struct {
	testing.TB

	mu     sync.Mutex
	errors []string
}

func (j *judge) Errorf(format string, args ...any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.errors = append(j.errors, fmt.Sprintf(format, args...))
}

// Check reports whatever must not happen to a packet, and nothing else.
func TestCheck(t *testing.T) {
	down := errors.New("down")
	for name, test := range map[string]struct {
		tamper func(i int, publish func() error) error
		want   string // the beginning of the only error
		result bustest.Result
	}{
		"nothing": {tamper: func(_ int, publish func() error) error { return publish() }},
		"lost": {
			tamper: func(i int, publish func() error) error {
				if i == 50 {
					return nil
				}
				return publish()
			},
			want: "packet 50, published at", result: bustest.Result{Lost: 1},
		},
		"twice": {
			tamper: func(i int, publish func() error) error {
				if i == 50 {
					publish()
				}
				return publish()
			},
			want: "packet 50 arrived 2 times",
		},
		"came though refused": {
			tamper: func(i int, publish func() error) error {
				if i == 50 {
					publish()
					return down
				}
				return publish()
			},
			want: "packet 50 arrived, though it was not taken: down", result: bustest.Result{Failed: 1},
		},
		"refused": {
			tamper: func(i int, publish func() error) error {
				if i == 50 {
					return down
				}
				return publish()
			},
			result: bustest.Result{Failed: 1},
		},
		"unknown": {
			tamper: func(i int, publish func() error) error {
				if i == 50 {
					publish()
				}
				if i == 50 || i == 51 {
					return herald.ErrUnknown
				}
				return publish()
			},
			result: bustest.Result{Failed: 2, Unknown: 2},
		},
	} {
		t.Run(name, func(t *testing.T) {
			network := herald.NewMemoryNetwork()
			from := &bus{Bus: network.Bus(), tamper: test.tamper}
			j := &judge{TB: t}
			s := bustest.Start(j, from, &bus{Bus: network.Bus()}, bustest.Options{Topics: []string{"a", "b"}, Size: 100})
			s.AwaitPackets(100)
			got := s.Check()
			if got.Failed != test.result.Failed || got.Unknown != test.result.Unknown || got.Lost != test.result.Lost {
				t.Errorf("got %+v, want %+v", got, test.result)
			}
			if all := strings.Join(j.errors, "\n"); (test.want == "") != (all == "") || !strings.HasPrefix(all, test.want) || len(j.errors) > 1 {
				t.Errorf("errors %q, want one of %q", all, test.want)
			}
		})
	}
}

// A packet that is lost while the receiver is told of losses is excused. One that
// is lost before or after is not.
func TestGap(t *testing.T) {
	network := herald.NewMemoryNetwork()
	var mu sync.Mutex
	losing := false
	lose := func(yes bool) {
		mu.Lock()
		defer mu.Unlock()
		losing = yes
	}
	from := &bus{Bus: network.Bus(), tamper: func(i int, publish func() error) error {
		mu.Lock()
		lost := losing
		mu.Unlock()
		if lost || i == 50 {
			return nil
		}
		return publish()
	}}
	told := &teller{Bus: network.Bus(), events: make(chan herald.Event)}
	j := &judge{TB: t}
	s := bustest.Start(j, from, told, bustest.Options{})
	s.AwaitPackets(100)
	since := time.Now()
	lose(true)
	told.events <- herald.Event{Kind: herald.EventDown, Since: since, Err: herald.ErrBusDown}
	s.AwaitGap()
	before := len(s.Published())
	s.Await("a packet that is lost", func() bool { return len(s.Published()) > before+1 })
	lose(false)
	before = len(s.Published())
	s.Await("a packet under way", func() bool { return len(s.Published()) > before })
	told.events <- herald.Event{Kind: herald.EventRestored}
	if got := s.Check(); got.Lost < 2 || len(got.Gaps) != 1 || !errors.Is(got.Gaps[0].Err, herald.ErrBusDown) {
		t.Errorf("got %+v", got)
	}
	if len(j.errors) != 1 || !strings.HasPrefix(j.errors[0], "packet 50, ") {
		t.Errorf("errors %q, want one of packet 50", j.errors)
	}
}

// A teller is a Bus that also delivers events of the test.
type teller struct {
	herald.Bus
	events chan herald.Event
}

func (b *teller) Receive(ctx context.Context) (herald.Event, error) {
	for {
		select {
		case e := <-b.events:
			return e, nil
		default:
		}
		short, cancel := context.WithTimeout(ctx, time.Millisecond)
		e, err := b.Bus.Receive(short)
		cancel()
		if err == nil || ctx.Err() != nil {
			return e, err
		}
	}
}
