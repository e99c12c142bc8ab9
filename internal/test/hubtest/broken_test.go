package hubtest

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/heraldgo/herald"
)

// brokenEnv makes the test binary run tests that must fail. It is set in a child
// process.
const brokenEnv = "HERALD_HUBTEST_BROKEN"

// broken lists brokers with which a test must fail, with all of these texts in its
// output.
var broken = []struct {
	name  string
	test  func(*testing.T, Broker)
	spoil func(*spoiled)
	want  []string
}{
	{"a packet twice", testDelivery,
		func(s *spoiled) {
			s.filter = every(100, func(e herald.Event) []herald.Event { return []herald.Event{e, e} })
		},
		[]string{" twice", "device"}},
	{"a packet lost", testDelivery,
		func(s *spoiled) { s.filter = every(1000, func(herald.Event) []herald.Event { return nil }) },
		[]string{" did not get message ", "gaps of the node:"}},
	{"packets out of order", testDelivery,
		func(s *spoiled) { s.filter = reverse },
		[]string{": out of order"}},
	{"a gap without a fault", testDelivery,
		func(s *spoiled) { s.filter = needlessGap },
		[]string{"reported gaps without a fault"}},
	{"a lie about an error", testDelivery,
		func(s *spoiled) { s.publish = publishAndLie },
		[]string{`, whose Send said "down"`}},
	{"an error without a fault", testDelivery,
		func(s *spoiled) { s.publish = refuseSome },
		[]string{"without a fault: ", "messages sent, "}},
	{"a silent loss", testRestart,
		func(s *spoiled) { s.filter = every(40, func(herald.Event) []herald.Event { return nil }) },
		[]string{" did not get message "}},
	{"a gap that begins too late", testRestart,
		func(s *spoiled) { s.filter = shiftGaps(outage) },
		[]string{" did not get message ", "node is cut off"}},
	{"a gap that begins before the hub", testRestart,
		func(s *spoiled) { s.filter = shiftGaps(-time.Hour) },
		[]string{"a gap that can not be"}},
	{"published again", testRestart,
		func(s *spoiled) { s.publish = publishAgain },
		[]string{`, whose Send said "down"`}},
	{"a dead topic", testRestart,
		func(s *spoiled) { s.filter = deadTopic("uuser0") },
		[]string{"not everyone is reached from everywhere", "of user0 on"}},
	{"health for ever red", testRestart,
		func(s *spoiled) { s.restarted = func(Broker) { s.red.Store(true) } },
		[]string{"health of all hubs: not within"}},
	{"a client disconnected", testRestart,
		func(s *spoiled) { s.restarted = disconnect },
		[]string{"of user0 on", " was disconnected: "}},
	{"a session forgotten", testRestart,
		func(s *spoiled) {
			s.registry = func(r herald.Registry) herald.Registry { return forgetful{r} }
		},
		[]string{"sessions as hub0", "199 sessions of 200 devices"}},
	{"silent drops", testSlow,
		func(s *spoiled) { s.bus = func(b herald.Bus) herald.Bus { return newGreedyBus(b, floodBytes/8) } },
		[]string{" did not get message "}},
	{"no bound", testSlow,
		func(s *spoiled) { s.bus = func(b herald.Bus) herald.Bus { return newGreedyBus(b, 2*floodBytes) } },
		[]string{"where is the bound?"}},
	{"the others suffer", testSlow,
		func(s *spoiled) {
			s.bus = func(b herald.Bus) herald.Bus { return fearfulBus{newGreedyBus(b, 2*floodBytes)} }
		},
		[]string{"who sends suffers"}},
}

// TestBroken runs all of them in one child process.
func TestBroken(t *testing.T) {
	t.Parallel()
	if os.Getenv(brokenEnv) != "" {
		t.Skip("the child runs TestBrokenChild")
	}
	command := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestBrokenChild$", "-test.v", "-test.parallel=6", "-test.timeout=15m")
	command.Env = append(os.Environ(), brokenEnv+"=1")
	text, err := command.CombinedOutput()
	if err == nil || command.ProcessState.ExitCode() != 1 {
		t.Fatalf("what is broken must fail, not more: %v\n%s", err, text)
	}
	for _, test := range broken {
		output := outputOf(string(text), test.name)
		for _, want := range test.want {
			if !strings.Contains(output, want) {
				t.Errorf("%s: no %q in its output:\n%s", test.name, want, output)
			}
		}
	}
}

// TestBrokenChild is the test that TestBroken runs in the child. Otherwise it does
// nothing.
func TestBrokenChild(t *testing.T) {
	if os.Getenv(brokenEnv) == "" {
		return
	}
	patience, gapPatience, sentBefore, sentAfter, probeInterval = 20*time.Second, 3*time.Second, 100, 100, -1
	for _, test := range broken {
		t.Run(test.name, func(t *testing.T) {
			if !strings.Contains(test.want[0], "bound") {
				t.Parallel()
			}
			s := &spoiled{}
			test.spoil(s)
			test.test(t, s.broker())
		})
	}
}

// outputOf returns the lines of a verbose run that belong to a subtest of
// TestBrokenChild.
func outputOf(text, name string) string {
	name = "TestBrokenChild/" + strings.ReplaceAll(name, " ", "_")
	var lines strings.Builder
	ours := false
	for line := range strings.Lines(text) {
		if header := strings.Fields(line); len(header) > 2 && (header[0] == "===" || header[0] == "---") {
			ours = header[2] == name
		}
		if ours {
			lines.WriteString(line)
		}
	}
	return lines.String()
}

// A spoiled broker is one in memory with some faults.
type spoiled struct {
	filter    func() func(herald.Event) []herald.Event // of the events of each Bus; the inner function has one caller
	publish   func(ctx context.Context, b herald.Bus, packets []herald.Packet) error
	bus       func(herald.Bus) herald.Bus
	registry  func(herald.Registry) herald.Registry
	restarted func(Broker)
	red       atomic.Bool // Health of each Bus
}

func (s *spoiled) broker() Broker {
	plain := memoryBroker(nil)
	return Broker{
		NewBus: func() (herald.Bus, error) {
			b, err := plain.NewBus()
			if err != nil {
				return nil, err
			}
			if s.bus != nil {
				b = s.bus(b)
			}
			f := &faultyBus{Bus: b, spoiled: s}
			if s.filter != nil {
				f.filter = s.filter()
			}
			return f, nil
		},
		NewRegistry: func() (herald.Registry, error) {
			r, err := plain.NewRegistry()
			if err == nil && s.registry != nil {
				r = s.registry(r)
			}
			return r, err
		},
		Restart: func() {
			plain.Restart()
			if s.restarted != nil {
				s.restarted(plain)
			}
		},
	}
}

// A faultyBus breaks promises of a Bus, as it is told to.
type faultyBus struct {
	herald.Bus
	spoiled *spoiled
	filter  func(herald.Event) []herald.Event
	events  []herald.Event // events to be handed over; only the caller of Receive uses it
}

func (b *faultyBus) Publish(ctx context.Context, packets ...herald.Packet) error {
	if b.spoiled.publish != nil {
		return b.spoiled.publish(ctx, b.Bus, packets)
	}
	return b.Bus.Publish(ctx, packets...)
}

func (b *faultyBus) Receive(ctx context.Context) (herald.Event, error) {
	for len(b.events) == 0 {
		e, err := b.Bus.Receive(ctx)
		if err != nil {
			return e, err
		}
		if b.filter == nil {
			return e, nil
		}
		b.events = b.filter(e)
	}
	e := b.events[0]
	b.events = b.events[1:]
	return e, nil
}

func (b *faultyBus) Health() error {
	if b.spoiled.red.Load() {
		return herald.ErrBusDown
	}
	return nil
}
