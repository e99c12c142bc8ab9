package bustest

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/heraldgo/herald"
)

// Options configure a Stream.
type Options struct {
	Topics []string // the topics that the packets go to, in turn; nil means one
	Size   int      // the least number of bytes in a packet
}

// A Stream is a sequence of packets that one Bus publishes, one each millisecond,
// and another receives. Its methods may be called concurrently.
type Stream struct {
	*Recorder
	from   herald.Bus
	topics []string
	size   int

	mu        sync.Mutex
	published []Published
}

// A Published is one Publish of a Stream.
type Published struct {
	Began, Ended time.Time // when Publish began and ended
	Err          error     // what it returned
}

// Start starts a stream that ends with the test.
func Start(t testing.TB, from, to herald.Bus, options Options) *Stream {
	t.Helper()
	s := &Stream{from: from, topics: options.Topics, size: options.Size}
	if s.topics == nil {
		s.topics = []string{"topic"}
	}
	if err := to.Subscribe(t.Context(), s.topics...); err != nil {
		t.Fatal(err)
	}
	s.Recorder = record(t, to, from)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { s.publish(ctx) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	return s
}

func (s *Stream) publish(ctx context.Context) {
	pace := time.NewTicker(time.Millisecond)
	defer pace.Stop()
	for i := 0; ctx.Err() == nil; i++ {
		<-pace.C
		data := strconv.AppendInt(make([]byte, 0, s.size), int64(i), 10)
		data = data[:max(len(data), s.size)]
		began := time.Now()
		err := s.from.Publish(ctx, herald.Packet{Topic: s.topic(i), Data: data})
		s.mu.Lock()
		s.published = append(s.published, Published{began, time.Now(), err})
		s.mu.Unlock()
	}
}

func (s *Stream) topic(i int) string { return s.topics[i%len(s.topics)] }

// Number returns the number of a packet of a Stream, which is the index of its
// Published.
func Number(p herald.Packet) int {
	i, _ := strconv.Atoi(string(bytes.TrimRight(p.Data, "\x00")))
	return i
}

// Published returns the packets for which Publish has returned, with or without an
// error. The caller must not change them.
func (s *Stream) Published() []Published {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.published[:len(s.published):len(s.published)]
}

// Arrived returns how often each packet has arrived, by its number.
func (s *Stream) Arrived() map[int]int { return arrivedOf(s.Events()) }

func arrivedOf(events []Arrival) map[int]int {
	got := make(map[int]int)
	for _, e := range events {
		if e.Kind == herald.EventPacket {
			got[Number(e.Packet)]++
		}
	}
	return got
}

// AwaitPackets waits until more than n packets have arrived.
func (s *Stream) AwaitPackets(n int) {
	s.t.Helper()
	s.Await("packets", func() bool { return len(s.Arrived()) > n })
}

// A Result counts what became of a Stream's packets.
type Result struct {
	Packets int // those for which Publish had returned
	Failed  int // those for which Publish returned an error
	Unknown int // those of Failed whose error was ErrUnknown
	Lost    int // those that Publish took and that did not arrive
	Gaps    []Gap
}

// Check waits until no gap is open, both Buses are well, and packets of every topic
// arrive that were published after that. Of the packets published before, it fails
// the test for each that was lost outside of the gaps, arrived twice, or arrived
// although Publish said that it was not taken.
func (s *Stream) Check() Result {
	s.t.Helper()
	s.Await("good health and EventRestored", func() bool {
		gaps := s.Gaps()
		return s.buses[0].Health() == nil && s.from.Health() == nil && (len(gaps) == 0 || !gaps[len(gaps)-1].Until.IsZero())
	})
	n := len(s.Published())
	s.Await("packets of every topic after the fault", func() bool { return s.flows(n) })
	events := s.Events()
	got := arrivedOf(events)
	r := Result{Packets: n, Gaps: gapsOf(events)}
	outside := 0
	for i, p := range s.Published()[:n] {
		if got[i] > 1 {
			s.t.Errorf("packet %d arrived %d times", i, got[i])
		}
		switch {
		case errors.Is(p.Err, herald.ErrUnknown):
			r.Failed++
			r.Unknown++
		case p.Err != nil:
			r.Failed++
			if got[i] > 0 {
				s.t.Errorf("packet %d arrived, though it was not taken: %v", i, p.Err)
			}
		case got[i] == 0:
			r.Lost++
			if slices.ContainsFunc(r.Gaps, func(g Gap) bool { return g.contains(p.Began, p.Ended) }) {
				continue
			}
			if outside++; outside <= 5 {
				s.t.Errorf("packet %d, published at %v, was lost outside of the gaps %v", i, p.Began, r.Gaps)
			}
		}
	}
	if outside > 5 {
		s.t.Errorf("%d packets were lost outside of the gaps", outside)
	}
	s.t.Logf("%d packets, %d not taken, %d of them perhaps, %d lost, %d gaps: %v", r.Packets, r.Failed, r.Unknown, r.Lost, len(r.Gaps), r.Gaps)
	return r
}

// flows reports whether a packet of every topic has arrived that is at least the
// nth of the stream and was published after the last gap.
func (s *Stream) flows(n int) bool {
	published, events := s.Published(), s.Events()
	got, gaps := arrivedOf(events), gapsOf(events)
	seen := make(map[string]bool)
	for i := n; i < len(published); i++ {
		p := published[i]
		if p.Err == nil && got[i] > 0 && (len(gaps) == 0 || p.Began.After(gaps[len(gaps)-1].Until)) {
			seen[s.topic(i)] = true
		}
	}
	return len(seen) == len(s.topics)
}
