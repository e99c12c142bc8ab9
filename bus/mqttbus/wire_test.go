package mqttbus

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"github.com/heraldgo/herald"
)

// Another implementation reads what we write.
func TestAppendPublish(t *testing.T) {
	for _, qos := range []byte{0, 1} {
		for _, size := range []int{0, 1, 90, 127, 128, 16_383, 16_384, 3_000_000} {
			var p publication
			p.add(qos, []byte("p/topic"), herald.Packet{Topic: "topic", Data: bytes.Repeat([]byte("x"), size)})
			m := stamp{1 << 63, 2, 1}
			m.put(p.bytes[p.parts[0].stamp:])
			if qos > 0 {
				p.bytes[p.parts[0].id+1] = 7
			}
			if _, whole := publishSize(qos, len("p/topic"), stampSize+size); whole != len(p.bytes) || whole != p.parts[0].end {
				t.Errorf("QoS %d, %d bytes: a packet of %d bytes was expected to have %d", qos, size, len(p.bytes), whole)
			}
			c, err := packets.ReadPacket(bytes.NewReader(p.bytes))
			if err != nil {
				t.Fatal(err)
			}
			got := c.Content.(*packets.Publish)
			back, ok := parseStamp(got.Payload)
			if got.QoS != qos || got.Duplicate || got.Retain || got.Topic != "p/topic" || got.PacketID != 7*uint16(qos) || !ok || back != m || len(got.Payload) != stampSize+size {
				t.Errorf("QoS %d, %d bytes: got %.200v", qos, size, got)
			}
		}
	}
}

// newTestLink returns a link that is subscribed to "a" and "b", and reads what is
// sent on conn.
func newTestLink(t *testing.T, qos byte) (l *link, s *subscriber) {
	s = newSubscriber(context.Background(), &dialer{}, qos, "p", "p/%probe-x")
	t.Cleanup(func() { s.batch.Close(nil) })
	in := newInbound(s, nil)
	l = &link{conn: discarding{}, in: in, quickAck: func() {}, dead: make(chan struct{}), ended: make(chan struct{}), timeout: time.Minute}
	in.link = l
	in.changed(&answer{kind: packets.SUBACK, topics: []string{"a", "b", ""}, names: []string{"p/a", "p/b", s.probe}, codes: []byte{0, 0, 0}})
	in.live.Store(true)
	return l, s
}

// A discarding connection takes whatever is written.
type discarding struct{ net.Conn }

func (discarding) Write(b []byte) (int, error)      { return len(b), nil }
func (discarding) SetWriteDeadline(time.Time) error { return nil }
func (discarding) Close() error                     { return nil }

// feed lets the link read b, and nothing after it.
func (l *link) feed(b []byte) error {
	l.r = bufio.NewReaderSize(bytes.NewReader(b), readBuffer)
	for {
		if err := l.readOne(); err != nil {
			l.in.flush()
			if errors.Is(err, io.EOF) && l.r.Buffered() == 0 {
				return nil
			}
			return err
		}
	}
}

func (s *subscriber) events() string {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	var said []string
	for {
		e, err := s.inbox.Receive(ended)
		slices.Sort(e.Topics) // they come in any order
		switch {
		case err != nil:
			return strings.Join(said, " ")
		case e.Kind == herald.EventDown:
			said = append(said, "down"+strings.Join(e.Topics, ","))
		case e.Kind == herald.EventRestored:
			said = append(said, "up"+strings.Join(e.Topics, ","))
		default:
			said = append(said, e.Packet.Topic+string(e.Packet.Data))
		}
	}
}

// A sender writes packets as a publisher would.
type sender struct{ ledger }

func (s *sender) packet(topic, data string) []byte {
	var p publication
	p.add(0, appendTopicName(nil, "p", topic), herald.Packet{Topic: topic, Data: []byte(data)})
	s.next(topic).put(p.bytes[p.parts[0].stamp:])
	return p.bytes
}

func TestMissing(t *testing.T) {
	one, two := &sender{ledger{publisher: 1}}, &sender{ledger{publisher: 2}}
	l, s := newTestLink(t, 0)
	step := func(want string, packets ...[]byte) {
		t.Helper()
		l.in.reported = time.Time{} // no need to wait
		if err := l.feed(slices.Concat(packets...)); err != nil {
			t.Fatal(err)
		}
		if got := s.events(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	one.packet("a", "before the subscription")
	step("a1 a2 b3", one.packet("a", "1"), one.packet("a", "2"), one.packet("b", "3"))
	second := two.packet("a", "5")
	step("a4 a5 a6", one.packet("a", "4"), second, one.packet("a", "6"))
	step("", second) // again

	one.packet("a", "dropped")
	one.packet("b", "dropped")
	two.packet("a", "dropped")
	step("down up a7", one.packet("a", "7"))
	// That was for every topic, but what it did not show may be older.
	step("downa,b upa,b b8 a9", one.packet("b", "8"), two.packet("a", "9"))
	step("a10 b11", one.packet("a", "10"), one.packet("b", "11"))

	// What was not taken, the publisher knows of.
	before := one.young["a"]
	one.packet("a", "refused")
	one.set("a", before)
	step("a12", one.packet("a", "12"))

	// A subscription that is new has missed nothing.
	l.in.changed(&answer{kind: packets.UNSUBACK, names: []string{"p/a"}, codes: []byte{0}})
	step("", one.packet("a", "unheard"))
	l.in.changed(&answer{kind: packets.SUBACK, topics: []string{"a"}, names: []string{"p/a"}, codes: []byte{0}})
	step("a13", one.packet("a", "13"))
	// One that is made again has.
	one.packet("a", "dropped")
	l.in.changed(&answer{kind: packets.SUBACK, topics: []string{"a"}, names: []string{"p/a"}, codes: []byte{0}})
	step("down up a14", one.packet("a", "14"))

	step("a15", one.packet("a", "15"))

	// A gap that cannot be told yet is told later, on the next link too.
	one.packet("a", "dropped")
	l.in.live.Store(false)
	step("a16", one.packet("a", "16"))
	l.in = newInbound(s, l.in)
	l.in.link = l
	l.in.live.Store(true)
	step("down up", nil)
}

// While the inbox drops, a gap that may go back further than its own waits.
func TestMissingWhileFull(t *testing.T) {
	one := &sender{ledger{publisher: 1}}
	l, s := newTestLink(t, 0)
	large := herald.Event{Kind: herald.EventPacket, Packet: herald.Packet{Data: make([]byte, inboxBytes*2/3)}}
	if err := l.feed(one.packet("a", "1")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		l.in.push([]herald.Event{large})
	}
	one.packet("a", "dropped")
	if err := l.feed(one.packet("a", "2")); err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimRight(s.events(), "\x00"); !strings.HasPrefix(got, "a1 ") || !strings.HasSuffix(got, " down up") {
		t.Errorf("got %q", got)
	}
	if err := l.feed(one.packet("a", "3")); err != nil {
		t.Fatal(err)
	}
	if got := s.events(); got != "down up a3" {
		t.Errorf("got %q", got)
	}
}

// The time of a gap is the last proof before the last packet that came, not the last
// proof before the gap was noticed.
func TestMissingSince(t *testing.T) {
	one := &sender{ledger{publisher: 1}}
	l, s := newTestLink(t, 0)
	probe := func(at int64) []byte {
		var p publication
		p.addProbe(0, s.probe, at)
		return p.bytes
	}
	start := l.in.proof
	first := slices.Concat(probe(start+1), one.packet("a", "1"), probe(start+2), one.packet("b", "2"))
	one.packet("a", "dropped")
	never := slices.Concat(probe(0), probe(s.clock()+int64(time.Hour)))
	if err := l.feed(slices.Concat(first, probe(start+3), never, one.packet("a", "4"))); err != nil {
		t.Fatal(err)
	}
	for {
		e, err := s.inbox.Receive(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if e.Kind == herald.EventDown {
			if want := s.wall(start + 1); !e.Since.Equal(want) {
				t.Errorf("since %v, want %v", e.Since, want)
			}
			if l.in.proof != start+3 {
				t.Errorf("the last proof is %d, want %d", l.in.proof, start+3)
			}
			break
		}
	}
}

// Publishers beyond those that are told apart are heard all the same.
func TestManyPublishers(t *testing.T) {
	l, s := newTestLink(t, 0)
	for i := range 3 * maxPublishers {
		p := &sender{ledger{publisher: uint64(i)}}
		if err := l.feed(slices.Concat(p.packet("a", ""), p.packet("a", ""))); err != nil {
			t.Fatal(err)
		}
	}
	if got := strings.Count(s.events(), "a"); got != 6*maxPublishers {
		t.Errorf("%d packets of %d", got, 6*maxPublishers)
	}
	if got := len(l.in.topics["p/a"].seen); got != maxPublishers {
		t.Errorf("%d publishers are remembered, want %d", got, maxPublishers)
	}
}

func TestLedgerForgets(t *testing.T) {
	l := ledger{publisher: 1}
	first := l.next("first")
	for i := range maxLedger + 10 {
		l.next(string(rune(i)))
	}
	if again := l.next("first"); again.previous != first.number {
		t.Errorf("the previous one of %+v is %d", again, first.number)
	}
	for i := range 3 * maxLedger {
		l.next("x" + string(rune(i)))
	}
	if m := l.next("first"); m.previous != 0 || len(l.young)+len(l.old) > 2*maxLedger {
		t.Errorf("got %+v, and %d topics are known", m, len(l.young)+len(l.old))
	}
}

// Whatever a broker sends, the reader comes to an end and takes no more memory
// than was sent.
func FuzzRead(f *testing.F) {
	one := &sender{ledger{publisher: 1}}
	f.Add(one.packet("a", "data"))
	f.Add([]byte{packets.PUBACK << 4, 2, 0, 1, packets.PINGRESP << 4, 0})
	f.Add([]byte{packets.SUBACK << 4, 4, 0, 1, 0, 0})
	f.Add([]byte{packets.DISCONNECT << 4, 2, 0x81, 0})
	f.Add([]byte{packets.PUBLISH<<4 | 2, 0xff, 0xff, 0xff, 0x7f, 0, 3, 'p', '/', 'a'})
	f.Fuzz(func(t *testing.T, b []byte) {
		l, _ := newTestLink(t, 1)
		l.current = &exchange{answers: []answer{
			{kind: packets.SUBACK, topics: []string{"c"}, names: []string{"p/c"}},
			{kind: packets.PUBACK},
			{kind: packets.PINGRESP},
		}, left: 3, done: make(chan struct{})}
		l.feed(b)
	})
}
