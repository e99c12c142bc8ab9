package herald

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http/httptest"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/heraldgo/herald/internal/conflate"
	"github.com/heraldgo/herald/internal/frame"
	"github.com/heraldgo/herald/internal/history"
	"github.com/heraldgo/herald/internal/history/packet"
	"github.com/heraldgo/herald/internal/test/badserver"
	"github.com/heraldgo/herald/internal/wire"
)

// extend puts extensions into an encoded envelope. They alternate between a tag and
// its value.
func extend(b []byte, extensions ...any) []byte {
	var section []byte
	for i := 0; i < len(extensions); i += 2 {
		section = binary.AppendUvarint(section, uint64(extensions[i].(int)))
		section = wire.AppendString(section, extensions[i+1].(string))
	}
	b = bytes.Clone(b)
	b[2] |= flagExtended
	return append(wire.AppendString(b[:3:3], string(section)), b[3:]...)
}

// A node skips the extensions that it does not know, whatever they carry, unless
// they are critical: those it refuses.
func TestExtensions(t *testing.T) {
	for _, e := range envelopes() {
		b := e.encode()
		want, err := decodeEnvelope(b, fuzzFrame)
		if err != nil {
			t.Fatal(err)
		}
		for _, skipped := range [][]any{{}, {2, ""}, {2, "a", 300, "\xff\x00"}, {1 << 30, strings.Repeat("x", 4000)}} {
			got, err := decodeEnvelope(extend(b, skipped...), fuzzFrame)
			if err != nil {
				t.Errorf("kind %d with extensions %.50q: %v", e.kind, skipped, err)
			} else if !bytes.Equal(got.frame, want.frame) || got.sender != want.sender || got.id != want.id {
				t.Errorf("kind %d with extensions %.50q is read as %+v", e.kind, skipped, got)
			}
		}
		for _, critical := range [][]any{{1, ""}, {2, "a", 301, "b"}} {
			if _, err := decodeEnvelope(extend(b, critical...), fuzzFrame); err == nil || !strings.Contains(err.Error(), "extension") {
				t.Errorf("kind %d with extensions %q: %v", e.kind, critical, err)
			}
		}
		cut := extend(b, 2, "ab")
		cut[5]++ // the value ends after its section
		for _, bad := range [][]byte{cut, extend(b, 2, strings.Repeat("x", maxExtensions))} {
			if _, err := decodeEnvelope(bad, fuzzFrame); err == nil {
				t.Errorf("kind %d: bad extensions were taken", e.kind)
			}
		}
	}
}

// The key of a message travels beside the extensions that others add, and an older
// node skips it. All packets of one Send have the same key.
func TestEnvelopeKey(t *testing.T) {
	h := newHub(t, Config{})
	var o outgoing
	for _, target := range []Target{User("a", "b"), Group("a", "b"), Connection("n.1"), Everyone()} {
		want := conflate.Key{Sum: conflate.SumOf(byte(target.kind), target.ids, "key")}
		for _, kind := range []envelopeKind{kindMessage, kindFenced} {
			e := envelope{kind: kind, receipt: &receipt{}, message: Text("x").Conflate("key")}
			h.pack(&o, &target, &e)
			for _, p := range o.packets {
				if got, err := decodeEnvelope(p.Data, fuzzFrame); err != nil || got.key == nil || *got.key != want {
					t.Errorf("%v: the key is %v, %v, want %v", target, got.key, err, want)
				}
			}
		}
	}
	b := (&envelope{kind: kindMessage, message: Text("x")}).encode()
	sum := strings.Repeat("s", conflate.SumSize)
	for _, test := range []struct {
		extensions []any
		keyed      bool
	}{
		{[]any{2, "place", tagKey, sum, 100, "later"}, true}, {[]any{tagKey, sum + "s"}, false}, {[]any{tagKey, ""}, false}, {[]any{2, sum}, false},
	} {
		e, err := decodeEnvelope(extend(b, test.extensions...), fuzzFrame)
		if err != nil || (e.key != nil) != test.keyed || test.keyed && string(e.key.Sum[:]) != sum {
			t.Errorf("%q: %v, %v", test.extensions, e.key, err)
		}
	}
}

// envelopes returns at least one envelope of each kind.
func envelopes() []envelope {
	f := filter{[]string{"n.1", "n.2"}, []string{"42"}, []string{"ios", ""}, true}
	text := Message{data: []byte("héllo"), text: true} // as it is decoded
	return []envelope{
		{kind: kindMessage, message: text},
		{kind: kindMessage, volatile: true, filter: f, message: Binary(make([]byte, 126))},
		{kind: kindMessage, filter: filter{on: true}, message: Binary(make([]byte, 1<<16))},
		{kind: kindMessage, copies: true, sender: "node-1", id: 1<<64 - 1, message: text},
		{kind: kindDirect, conns: []string{"n.1", "n.2"}, message: Message{data: []byte{}, text: true}},
		{kind: kindCall, sender: "node", id: 7, filter: f, call: call{op: opJoin, target: targetUser, ids: []string{"42", "a\x00b"}, groups: []string{"room"}}},
		{kind: kindCall, sender: "node", call: call{op: opLeave, target: targetEveryone, groups: []string{"room"}}},
		{kind: kindCall, sender: "node", id: 8, call: call{op: opDisconnect, target: targetGroup, ids: []string{"g"}, code: StatusReplaced, reason: "bye", before: 1 << 60}},
		{kind: kindAnswer, sender: "node", id: 9, err: "no"},
		{kind: kindHeartbeat, sender: "node", id: 300, notice: noticeLost, whole: 1 << 50},
		{kind: kindFenced, sender: "node", id: 1 << 40, filter: f, receipt: &receipt{within: 5 * time.Second, named: true}, message: text},
		{kind: kindFenced, volatile: true, copies: true, sender: "node", receipt: &receipt{}, conns: []string{"n.1"}, message: text},
		{kind: kindReceipts, sender: "node", receipt: encodedReports(
			report{id: 1 << 40, what: reportTaken, counter: 3},
			report{id: 7, what: reportTakenNamed, counter: 4, session: &Session{User: "42", Device: "d", Since: time.UnixMicro(5), Meta: map[string]string{"a": "b"}}},
			report{id: 7, what: reportMissed, counter: 1 << 60}, report{what: reportTold}, report{what: reportClosing})},
		{kind: kindQuestion, sender: "node", id: 3},
		{kind: kindQuestion, sender: "node", id: 4, filter: f, target: targetUser, ids: []string{"42"}},
		{kind: kindStatement, sender: "node", id: 4, statement: []byte("{}")},
		{kind: kindProbe, sender: "node", id: 5, filter: f, receipt: &receipt{within: time.Second, named: true}},
	}
}

func encodedReports(reports ...report) *receipt {
	r := &receipt{n: len(reports)}
	for _, p := range reports {
		r.encoded = p.append(r.encoded)
	}
	return r
}

// fuzzFrame is the largest frame that these tests take.
const fuzzFrame = 1 << 17

// decodeAgain is decodeEnvelope, but with the message in place of its frame, so
// that encoding the result gives b again.
func decodeAgain(b []byte) (envelope, error) {
	e, err := decodeEnvelope(b, fuzzFrame)
	if err == nil && e.kind == kindReceipts {
		e.receipt = encodedReports(e.receipt.reports...)
	}
	if err == nil && e.frame != nil {
		payload, _ := frame.Payload(e.frame)
		e.message = Message{data: payload, text: e.frame[0] == frame.Text}
		e.frame = nil
	}
	return e, err
}

// Every node reads an envelope as it was written. One that is cut short, is of
// another version, or has a byte too many is refused.
func TestEnvelope(t *testing.T) {
	for _, e := range envelopes() {
		b := e.encode()
		got, err := decodeAgain(b)
		if err != nil {
			t.Fatalf("%+v: %v", e, err)
		}
		if !reflect.DeepEqual(got, e) && !(len(e.message.data) > 100 && bytes.Equal(got.encode(), b)) {
			t.Errorf("got %+v, want %+v", got, e)
		}
		for n := range min(len(b), 200) {
			if _, err := decodeEnvelope(b[:n], fuzzFrame); err == nil {
				t.Errorf("kind %d cut to %d of %d bytes was taken", e.kind, n, len(b))
			}
		}
		if _, err := decodeEnvelope(append(b, 0), fuzzFrame); err == nil {
			t.Errorf("kind %d with a byte more was taken", e.kind)
		}
		b[0]++
		if _, err := decodeEnvelope(b, fuzzFrame); err == nil {
			t.Errorf("kind %d of another version was taken", e.kind)
		}
	}
}

// A node takes the largest envelopes that another may send, and none that is
// larger.
func TestEnvelopeBounds(t *testing.T) {
	padded := func(header int) []byte { // with a frame of 3 bytes
		e := envelope{kind: kindMessage, filter: filter{exceptUsers: []string{"x"}}, message: Binary([]byte("x"))}
		one := len(e.encode()) - 3
		e.filter.exceptUsers[0] = strings.Repeat("x", header-one-1) // the length of this string takes two bytes more than that of "x"
		return e.encode()
	}
	known := (&envelope{kind: kindMessage, volatile: true, copies: true, sender: "n", filter: filter{on: true}, message: Binary(nil)}).encode()
	most := make([]string, maxListed)
	for i := range most {
		most[i] = strings.Repeat("x", maxListedBytes/maxListed)
	}
	for name, test := range map[string]struct {
		b        []byte
		maxFrame int
		want     string // in the error
	}{
		"the longest header and frame":  {padded(maxHeader), 3, ""},
		"a header that is too long":     {padded(maxHeader + 1), 100, "of 1179649 bytes and a frame of 3:"},
		"a frame that is too long":      {padded(20_000), 2, "of 20000 bytes and a frame of 3:"},
		"bytes for no frame":            {padded(maxHeader + 1), 2, "of 1179652 bytes and a frame of 0:"},
		"all that may be listed":        {(&envelope{kind: kindDirect, conns: most, message: Binary(nil)}).encode(), 2, ""},
		"the longest sender":            {(&envelope{kind: kindAnswer, sender: strings.Repeat("n", maxNodeID)}).encode(), 0, ""},
		"a sender that is too long":     {(&envelope{kind: kindAnswer, sender: strings.Repeat("n", maxNodeID+1)}).encode(), 0, "malformed"},
		"the longest answer":            {(&envelope{kind: kindAnswer, err: strings.Repeat("e", maxAnswer)}).encode(), 0, ""},
		"an answer that is too long":    {(&envelope{kind: kindAnswer, err: strings.Repeat("e", maxAnswer+1)}).encode(), 0, "malformed"},
		"all flags":                     {extend(known, 2, ""), 2, ""},
		"a flag that is none":           {append([]byte{kindMessage.version(), byte(kindMessage), flagsKnown + 1}, known[3:]...), 2, "malformed"},
		"the longest extensions":        {extend(known, 2, strings.Repeat("x", maxExtensions-3)), 2, ""},
		"extensions that are too long":  {extend(known, 2, strings.Repeat("x", maxExtensions-2)), 2, "malformed"},
		"no more than another version":  {[]byte{envelopeVersion + 1, 0, 0}, 0, "version 3"},
		"less than kind and flags need": {[]byte{envelopeVersion + 1, 0}, 0, "malformed"},
	} {
		_, err := decodeEnvelope(test.b, test.maxFrame)
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	longest := []string{strings.Repeat("x", maxListedBytes)}
	if err := checkNames(longest); err != nil {
		t.Error(err)
	}
	if err := checkNames(longest, []string{"x"}); !errors.Is(err, ErrInvalid) {
		t.Errorf("a byte above the bound: %v", err)
	}
}

// The memory that a Send packed its packets in is used again, unless it is large.
func TestOutgoingRelease(t *testing.T) {
	again := func(data, packets int) bool {
		for range 100 { // a pool may drop what it holds
			o := &outgoing{make([]Packet, packets), make([]byte, data)}
			o.release()
			if outgoings.Get() == any(o) {
				return true
			}
		}
		return false
	}
	if !again(keepData, keepPackets) || again(keepData+1, 1) || again(1, keepPackets+1) {
		t.Error("memory of the wrong size is used again")
	}
}

// Every known flag is understood, also together with all others, and no other flag
// is.
func TestEnvelopeFlags(t *testing.T) {
	e := envelope{
		kind: kindMessage, volatile: true, copies: true, sender: "node", id: 1,
		filter: filter{except: []string{"n.1"}, on: true, platforms: []string{"ios"}}, message: Text("x"),
	}
	b := extend(e.encode(), 2, "a")
	if b[2] != flagsKnown || flagsKnown != 31 {
		t.Errorf("flags %b, of %b", b[2], flagsKnown)
	}
	if got, err := decodeEnvelope(b, fuzzFrame); err != nil || !got.volatile || !got.copies || !got.filter.on {
		t.Errorf("all flags: %+v, %v", got, err)
	}
	for unknown := byte(flagsKnown + 1); unknown > 0; unknown <<= 1 {
		b := e.encode()
		b[2] = unknown
		if _, err := decodeEnvelope(b, fuzzFrame); err == nil {
			t.Errorf("flag %b was taken", unknown)
		}
	}
}

// names counts the names in all lists of an envelope.
func TestEnvelopeNames(t *testing.T) {
	list := func(n int) []string { return make([]string, n) }
	e := envelope{
		filter: filter{except: list(1), exceptUsers: list(2), platforms: list(4)},
		conns:  list(8), call: call{ids: list(16), groups: list(32)}, ids: list(64),
	}
	if n := e.names(); n != 127 {
		t.Errorf("%d names, want 127", n)
	}
}

// Nodes of version 1 do not know questions, statements and probes, so these are
// sent as version 2. No target comes after targetEveryone.
func TestQuestions(t *testing.T) {
	for _, e := range envelopes() {
		want := byte(1)
		if e.kind == kindQuestion || e.kind == kindStatement || e.kind == kindProbe {
			want = 2
		}
		if got := e.encode()[0]; got != want || e.kind.version() != want {
			t.Errorf("kind %d is of version %d, and sent as %d, want %d", e.kind, e.kind.version(), got, want)
		}
	}
	for target, ok := range map[targetKind]bool{0: true, targetEveryone: true, targetEveryone + 1: false} {
		e := envelope{kind: kindQuestion, sender: "node", target: target}
		if got, err := decodeEnvelope(e.encode(), fuzzFrame); (err == nil) != ok || ok && got.target != target {
			t.Errorf("target %d: %d, %v", target, got.target, err)
		}
	}
}

// A packet says that a Conn may get the message in several copies only if that can
// happen, and a fenced message stays fenced.
func TestPack(t *testing.T) {
	h := newHub(t, Config{})
	for _, test := range []struct {
		to      Target
		packets int
		copies  bool
	}{
		{Everyone(), 1, false},
		{User("a"), 1, false},
		{User("a", "b", "a"), 2, false},
		{Group("g"), 1, false},
		{Group("g", "h", "g"), 2, true},
		{Connection("n.1", "n.2", "m.1"), 2, false},
	} {
		for _, kind := range []envelopeKind{kindMessage, kindFenced} {
			sent := envelope{kind: kind, message: Text("x"), receipt: new(receipt)}
			if kind == kindFenced {
				sent.sender, sent.id = "of the fence", 1<<40
			}
			var o outgoing
			h.pack(&o, &test.to, &sent)
			if len(o.packets) != test.packets {
				t.Errorf("%+v: %d packets", test.to, len(o.packets))
			}
			for _, p := range o.packets {
				e, err := decodeEnvelope(p.Data, fuzzFrame)
				if err != nil || e.copies != test.copies {
					t.Errorf("%+v: copies is %v (%v)", test.to, e.copies, err)
				}
				want := kind
				if kind == kindMessage && test.to.kind == targetConnection {
					want = kindDirect
				}
				if e.kind != want || (len(e.conns) > 0) != (test.to.kind == targetConnection) {
					t.Errorf("%+v: of kind %d with connections %q, want kind %d", test.to, e.kind, e.conns, want)
				}
				switch fresh := e.sender == h.id && e.id > 0 && e.id < 1<<40; {
				case kind == kindFenced && (e.sender != "of the fence" || e.id != 1<<40):
					t.Errorf("%+v: a fence of %s, %d", test.to, e.sender, e.id)
				case kind == kindMessage && fresh != test.copies:
					t.Errorf("%+v: numbered by %q, %d", test.to, e.sender, e.id)
				}
			}
		}
	}
}

// The largest message that may be sent is one that every node takes.
func TestEnvelopeOfTheLargest(t *testing.T) {
	h := newHub(t, Config{})
	e := envelope{kind: kindMessage, message: Binary(make([]byte, h.config.MaxSendSize))}
	if _, err := decodeEnvelope(e.encode(), h.maxFrame()); err != nil {
		t.Error(err)
	}
}

// To a node that knows nothing of logs, a packet of a log is an envelope like any
// other.
func TestEnvelopeWithPlace(t *testing.T) {
	for _, e := range envelopes() {
		plain := e.encode()
		body := packet.Body(plain)
		placed := packet.Append(nil, history.Packet{Kept: true, At: history.Point{Epoch: 7, Offset: 9}, Prev: 3, Body: body})
		want, _ := decodeEnvelope(plain, fuzzFrame)
		for _, b := range [][]byte{body, placed} {
			if got, err := decodeEnvelope(b, fuzzFrame); err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%q: %+v, %v; want %+v", b, got, err, want)
			}
		}
	}
}

func FuzzEnvelope(f *testing.F) {
	for _, e := range envelopes() {
		f.Add(e.encode())
		f.Add(extend(e.encode(), 2, "skipped"))
	}
	f.Add([]byte{})
	f.Add([]byte{kindDirect.version(), byte(kindDirect), 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Add(append([]byte{kindDirect.version(), byte(kindDirect), 0}, emptyNames(fuzzFrame)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		e, err := decodeEnvelope(b, fuzzFrame)
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > 64*uint64(len(b))+1<<20 {
			t.Fatalf("%d bytes were allocated for %d", n, len(b))
		}
		if err != nil {
			return
		}
		if e.names() > maxListed || len(e.frame) > fuzzFrame {
			t.Fatalf("taken with %d names and a frame of %d bytes", e.names(), len(e.frame))
		}
		e, _ = decodeAgain(b)
		again, err := decodeAgain(e.encode())
		if err != nil {
			t.Fatalf("what was decoded is refused when encoded again: %v\n%+v", err, e)
		}
		if !reflect.DeepEqual(again, e) {
			t.Fatalf("got %+v\nwant %+v", again, e)
		}
		if e.kind <= kindDirect || e.kind == kindFenced {
			if !frame.Valid(e.message.frame()) {
				t.Fatalf("the frame of message %q is not valid", e.message.data[:min(len(e.message.data), 20)])
			}
		}
	})
}

// A client's message is passed on without being copied or checked again.
func TestMessageReceived(t *testing.T) {
	for _, sent := range []Message{Text(""), Text("é"), Binary([]byte("\xff")), Text(strings.Repeat("x", 126)), Text(strings.Repeat("x", 1<<16))} {
		b := sent.frame()
		m := received(b)
		if m.String() != sent.String() || !bytes.Equal(m.Bytes(), sent.Bytes()) || m.IsText() != sent.IsText() || m.len() != sent.len() {
			t.Errorf("%.20q is received as %.20q", sent, m)
		}
		if got := m.frame(); &got[0] != &b[0] || len(got) != len(b) {
			t.Errorf("%.20q is copied", sent)
		}
		if got := m.appendFrame([]byte("x")); string(got) != "x"+string(b) {
			t.Errorf("%.20q is encoded as % .20x", sent, got)
		}
		if err := m.check(int64(sent.len())); err != nil {
			t.Error(err)
		}
		if err := m.check(int64(sent.len() - 1)); sent.len() > 1 && !errors.Is(err, ErrInvalid) {
			t.Errorf("one byte too long: %v", err)
		}
	}
}

// Changing the result of Bytes does not change a text message.
func TestMessageBytes(t *testing.T) {
	for _, m := range []Message{Text("text"), Text(""), Binary([]byte("text")), JSON("text"), received(Text("text").frame())} {
		want := m.String()
		if got := string(m.Bytes()); got != want || m.len() != len(want) {
			t.Errorf("Bytes: %q, String: %q, length %d", got, want, m.len())
		}
	}
	m := Text("text")
	m.Bytes()[0] = 'n'
	if m.String() != "text" {
		t.Errorf("the text has become %q", m)
	}
}

// A close frame is read as it was written.
func TestCloseFrame(t *testing.T) {
	for _, reason := range []string{"", "too slow", strings.Repeat("r", 123)} {
		b := closeFrame(StatusTooSlow, reason)
		payload, ok := frame.Payload(b)
		if !ok || b[0] != frame.Close {
			t.Fatalf("close frame % x", b)
		}
		c := parseClose(payload)
		if c.Code != StatusTooSlow || c.Reason != reason || !bytes.Equal(closeFrame(c.Code, c.Reason), b) {
			t.Errorf("reason %q is read as %v", reason, c)
		}
	}
	if c := parseClose(nil); c.Code != statusNone || c.Reason != "" {
		t.Errorf("no code is read as %v", c)
	}
}

// A sieve lets through the same Conns as the filter that it is made of, and
// allocates nothing for each of them.
func TestSieve(t *testing.T) {
	h := newHub(t, Config{})
	for counter := range uint64(20) {
		c := &Conn{hub: h, counter: counter, identity: Identity{User: fmt.Sprint("u", counter%3), Platform: []string{"web", "ios"}[counter%2]}}
		id := func(n int) string { return fmt.Sprint(h.id, ".", n) }
		for i, target := range []Target{
			Everyone(),
			Everyone().Except(id(7), id(3), "other.5", id(11), id(0)),
			Everyone().Except("other.5"),
			Everyone().ExceptUser("u1", "nobody").Except(id(4)),
			Everyone().On("ios").Except(id(1)),
			Everyone().On(),
		} {
			f := target.filter()
			want := f.passesSession(Session{ID: c.ID(), User: c.identity.User, Platform: c.identity.Platform})
			s := newSieve(h.id, &f)
			if got := s.passes(c); got != want {
				t.Errorf("target %d, Conn %d: passes %v, want %v", i, counter, got, want)
			}
			if n := testing.AllocsPerRun(10, func() { s.passes(c) }); n > 0 {
				t.Errorf("target %d: %v allocations a Conn", i, n)
			}
		}
	}
}

// emptyNames is a list of n empty names, as wire.AppendStrings would write it.
func emptyNames(n int) []byte {
	return append(binary.AppendUvarint(nil, uint64(n)), make([]byte, n)...)
}

func names(n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprint(i)
	}
	return list
}

// hostilePackets returns packets that no node sends, whatever its application asks
// for.
func hostilePackets(h *Hub) map[string]Packet {
	frame := Text("x").frame()
	const many = 16 << 20
	join := envelope{kind: kindCall, sender: h.id, id: 1, call: call{op: opJoin, target: targetEveryone, groups: names(20_000)}}
	except := envelope{kind: kindMessage, filter: filter{exceptUsers: names(20_000)}, message: Text("x")}
	long := envelope{kind: kindDirect, conns: []string{strings.Repeat("x", 2<<20) + ".1"}, message: Text("x")}
	return map[string]Packet{
		"16 million empty ids":         {h.nodeTopic, append(append([]byte{kindDirect.version(), byte(kindDirect), 0}, emptyNames(many)...), frame...)},
		"16 million users left out":    {topicEveryone, append(append([]byte{kindMessage.version(), byte(kindMessage), flagFilter, 0}, emptyNames(many)...), append([]byte{0}, frame...)...)},
		"an empty user left out":       {topicEveryone, append([]byte{kindMessage.version(), byte(kindMessage), flagFilter, 0, 1, 0, 0}, frame...)},
		"20,000 users left out":        {topicEveryone, except.encode()},
		"a Join of 20,000 groups":      {h.nodeTopic, join.encode()},
		"an id of 2 MB":                {h.nodeTopic, long.encode()},
		"a message over MaxSendSize":   {topicEveryone, (&envelope{kind: kindMessage, message: Binary(make([]byte, 1<<20+1))}).encode()},
		"an answer of 16 MB":           {h.nodeTopic, (&envelope{kind: kindAnswer, sender: h.id, id: 1, err: strings.Repeat("x", 16<<20)}).encode()},
		"a heartbeat of 16 MB of node": {topicHeartbeat, (&envelope{kind: kindHeartbeat, sender: strings.Repeat("x", 16<<20), id: 1}).encode()},
	}
}

// Hostile packets are counted, make a Gap, and cost neither memory nor time.
func TestHostilePackets(t *testing.T) {
	var gaps atomic.Uint64
	r := newRig(t, Config{Bus: NewMemoryNetwork().Bus(), Registry: NewMemoryRegistry(), OnGap: func(Gap) { gaps.Add(1) }})
	r.connect("user=a")
	r.only()
	for name, p := range hostilePackets(r.Hub) {
		t.Run(name, func(t *testing.T) {
			before := r.Stats()
			var malformed uint64
			n := badserver.Grown(func() {
				if err := r.bus.Publish(t.Context(), p); err != nil {
					t.Fatal(err)
				}
				r.await("the packet", func() bool { return r.Stats().Received > before.Received })
				r.Send(t.Context(), User("a"), Text("behind it"))
				r.await("the message behind it", func() bool { return r.Stats().Delivered > before.Delivered })
				malformed = r.Stats().Malformed - before.Malformed
			})
			if malformed != 1 {
				t.Errorf("%d packets were refused, of %d bytes", malformed, len(p.Data))
			}
			if n > 64<<20 {
				t.Errorf("the process grew by %d MB", n>>20)
			}
		})
	}
	if malformed := r.Stats().Malformed; malformed > 0 {
		r.await("a gap for each", func() bool { return r.Stats().Gaps >= malformed && gaps.Load() > 0 })
	}
}

// A call that other nodes would refuse is not sent. The error names the rule.
func TestCallsOverTheBounds(t *testing.T) {
	h := newHub(t, Config{})
	ctx := t.Context()
	ids := make([]string, maxListed+1)
	for i := range ids {
		ids[i] = fmt.Sprintf("node.%d", i)
	}
	many, long := names(maxListed+1), strings.Repeat("x", maxListedBytes+1)
	for name, err := range map[string]error{
		"Send to connections":      h.Send(ctx, Connection(ids...), Text("x")),
		"Send with Except":         h.Send(ctx, Everyone().Except(ids...), Text("x")),
		"Send with ExceptUser":     h.Send(ctx, User("a").ExceptUser(many...), Text("x")),
		"Send with both":           h.Send(ctx, User("a").ExceptUser(many[1:]...).Except(ids[0]), Text("x")),
		"Send with On":             h.Send(ctx, User("a").On(many...), Text("x")),
		"Send with a long user":    h.Send(ctx, Everyone().ExceptUser(long), Text("x")),
		"Join of users":            h.Join(ctx, User(many...), "g"),
		"Join of groups":           h.Join(ctx, User("a"), many...),
		"Leave of a long group":    h.Leave(ctx, User("a"), long),
		"Disconnect of groups":     h.Disconnect(ctx, Group(many...), 4000, ""),
		"Disconnect with a filter": h.Disconnect(ctx, Everyone().ExceptUser(many...), 4000, ""),
	} {
		if !errors.Is(err, ErrInvalid) || !strings.Contains(fmt.Sprint(err), "must be at most") {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Each user's message is a packet of its own.
	if err := h.Send(ctx, User(many...), Text("x")); err != nil {
		t.Errorf("Send to many users: %v", err)
	}
	if err := h.Disconnect(ctx, Connection(ids[1:]...), 4000, ""); err != nil {
		t.Errorf("Disconnect of as many as there may be: %v", err)
	}
	if err := h.Send(ctx, Everyone().ExceptUser(many[1:]...), Text("x")); err != nil {
		t.Errorf("Send past as many as there may be: %v", err)
	}
}

// A Join that would add more memberships than one call may change on a node is
// answered with an error, and adds none.
func TestCallOverTheChanges(t *testing.T) {
	rigs := newPair(t, false, Config{})
	const conns = 200
	for i := range conns {
		rigs[0].connect(fmt.Sprint("user=", i%10))
	}
	rigs[0].await("the clients", func() bool { return rigs[0].Stats().Accepted == conns })
	err := rigs[1].Join(t.Context(), Everyone(), names(maxChanges/conns+1)...)
	var partial *PartialError
	if !errors.As(err, &partial) || !strings.Contains(err.Error(), "at most") {
		t.Errorf("Join: %v", err)
	}
	if topics := rigs[0].Stats().Topics; topics != 11 {
		t.Errorf("%d topics have connections", topics)
	}
	if refused := rigs[0].Stats().CallsRefused; refused != 1 {
		t.Errorf("CallsRefused is %d", refused)
	}
}

// A call that names a Conn several times still applies to it once.
func TestConcernedOnce(t *testing.T) {
	r := newRig(t, Config{})
	r.connect("user=a&groups=g,h")
	c := r.only()
	for name, what := range map[string]call{
		"connection": {target: targetConnection, ids: []string{c.ID(), c.ID()}},
		"user":       {target: targetUser, ids: []string{"a", "a", "a"}},
		"groups":     {target: targetGroup, ids: []string{"g", "h", "g"}},
	} {
		if conns, err := r.calls.concerned(incomingCall{call: what}); len(conns) != 1 || err != nil {
			t.Errorf("%s: %d, %v", name, len(conns), err)
		}
	}
}

// The calls that wait to be applied are bounded in bytes. Calls above the bound are
// counted, and not answered.
func TestFloodOfCalls(t *testing.T) {
	h := newHub(t, Config{})
	s := newCalls(h.id, &h.config, h.index, h.follower, h.presence, h.publish, h.stopped, &h.stats) // nobody applies what is in its queue
	user := strings.Repeat("x", 1<<10)
	ids := make([]string, 1000)
	for i := range ids {
		ids[i] = user
	}
	e := envelope{kind: kindCall, sender: h.id, call: call{op: opLeave, target: targetUser, ids: ids, groups: []string{"g"}}}
	const calls = 200
	h.calls, s = s, h.calls
	defer func() { h.calls = s }()
	for i := range calls {
		e.id = uint64(i)
		h.take(Packet{h.nodeTopic, e.encode()}, nil, nil, nil)
	}
	if n := len(h.calls.queue); n < 10 || n > maxCallBytes>>20 {
		t.Errorf("%d calls of 1 MB wait", n)
	}
	if n := h.Stats().CallsRefused; n != uint64(calls-len(h.calls.queue)) {
		t.Errorf("CallsRefused is %d, and %d wait of %d", n, len(h.calls.queue), calls)
	}
}

// A small message that waits in a queue does not keep a large header in memory.
func TestQueuedFrameHoldsNoHeader(t *testing.T) {
	r := newRig(t, Config{WriteTimeout: time.Hour})
	r.connect("user=a")
	c := r.only()
	c.mu.Lock() // a drain that never runs: nothing is written
	c.queue.owner = ownerDrain
	c.mu.Unlock()
	filter := filter{exceptUsers: []string{strings.Repeat("x", maxListedBytes)}}
	e := envelope{kind: kindMessage, filter: filter, message: Text("x")}
	data := e.encode()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for range 100 {
		r.take(Packet{userTopic("a"), append([]byte(nil), data...)}, nil, nil, nil)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if n := int64(after.HeapAlloc) - int64(before.HeapAlloc); n > 10<<20 {
		t.Errorf("100 messages of a byte hold %d MB", n>>20)
	}
	c.kill(ErrClosed)
}

// Conns join and leave groups, many groups among them, in any order. For each Conn
// and each topic, the index agrees with a plain map.
func TestIndexAgainstMaps(t *testing.T) {
	h := newHub(t, Config{})
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 0))
		x := newIndex()
		conns := make([]*Conn, 5)
		want := make([]map[string]bool, len(conns))
		enter := func(i int) {
			conns[i] = &Conn{hub: h, counter: h.counter.Add(1), identity: Identity{User: fmt.Sprint("u", i%3)}}
			want[i] = map[string]bool{topicEveryone: true, userTopic(conns[i].User()): true}
			if !x.add(conns[i], 0, 0) {
				t.Fatal("not added")
			}
		}
		for i := range conns {
			enter(i)
		}
		spread := []int{5, 3 * fewTopics, 2 * indexStep}[seed%3]
		for range 300 {
			i := random.IntN(len(conns))
			switch c := conns[i]; random.IntN(10) {
			case 0:
				topics := x.remove(c)
				slices.Sort(topics)
				if !slices.Equal(topics, slices.Sorted(maps.Keys(want[i]))) {
					t.Fatalf("seed %d: removed from %d topics, want %d", seed, len(topics), len(want[i]))
				}
				if joined, _ := x.joinGroups(c, []string{"g"}, 0); len(joined) > 0 || x.remove(c) != nil {
					t.Fatalf("seed %d: joined after the removal", seed)
				}
				enter(i)
			case 1, 2, 3, 4:
				group := fmt.Sprint(random.IntN(spread))
				if x.leaveGroup(c, group) != want[i][groupTopic(group)] {
					t.Fatalf("seed %d: left %q", seed, group)
				}
				delete(want[i], groupTopic(group))
			default:
				groups := make([]string, random.IntN(spread))
				fresh := make(map[string]bool)
				for j := range groups {
					groups[j] = fmt.Sprint(random.IntN(spread))
					if !want[i][groupTopic(groups[j])] {
						fresh[groupTopic(groups[j])] = true
					}
				}
				limit := random.IntN(2 * spread)
				joined, err := x.joinGroups(c, groups, limit)
				if over := limit > 0 && len(want[i])-2+len(fresh) > limit; over != (err != nil) {
					t.Fatalf("seed %d: %d groups and %d more with a limit of %d: %v", seed, len(want[i])-2, len(fresh), limit, err)
				} else if over {
					fresh = nil
				}
				if slices.Sort(joined); !slices.Equal(joined, slices.Sorted(maps.Keys(fresh))) {
					t.Fatalf("seed %d: joined %q, want %q", seed, joined, slices.Sorted(maps.Keys(fresh)))
				}
				maps.Copy(want[i], fresh)
			}
			checkIndex(t, x, conns, want)
		}
	}
}

func checkIndex(t *testing.T, x *index, conns []*Conn, want []map[string]bool) {
	t.Helper()
	members := make(map[string][]*Conn)
	for i, c := range conns {
		topics := x.topicsOf(c)
		if slices.Sort(topics); !slices.Equal(topics, slices.Sorted(maps.Keys(want[i]))) {
			t.Fatalf("conn %d has topics %q, want %q", i, topics, slices.Sorted(maps.Keys(want[i])))
		}
		if s := x.strays(c, append(topics, "gnot there")); !slices.Equal(s, []string{"gnot there"}) {
			t.Fatalf("strays %q", s)
		}
		for topic := range want[i] {
			members[topic] = append(members[topic], c)
		}
	}
	if _, _, topics := x.size(); topics != len(members) {
		t.Fatalf("%d topics, want %d", topics, len(members))
	}
	for topic, want := range members {
		found := x.appendConns(nil, topic)
		slices.SortFunc(found, func(a, b *Conn) int { return int(a.counter) - int(b.counter) })
		slices.SortFunc(want, func(a, b *Conn) int { return int(a.counter) - int(b.counter) })
		if !slices.Equal(found, want) {
			t.Fatalf("topic %q has %d Conns, want %d", topic, len(found), len(want))
		}
	}
}

// If a Conn that is in many groups joins one more, no list of its groups is made to
// count them.
func TestManyGroupsAreCountedInPlace(t *testing.T) {
	h := newHub(t, Config{})
	c := h.newConn(httptest.NewRequest("GET", "/", nil), Identity{User: "u"})
	h.index.add(c, 0, 0)
	var groups []string
	for i := range 500 {
		groups = append(groups, fmt.Sprint("g", i))
	}
	if _, err := h.index.joinGroups(c, groups, 500); err != nil {
		t.Fatal(err)
	}
	one := groupTopics([]string{"g500", "g0"})
	if n := h.index.countWith(c, one); n != 501 {
		t.Errorf("counted %d", n)
	}
	if n := testing.AllocsPerRun(100, func() { h.index.countWith(c, one) }); n > 2 {
		t.Errorf("%v allocations", n)
	}
	h.index.remove(c)
}

// Groups that a Conn joins while they are being counted are counted once.
func TestGroupsAreCountedOnce(t *testing.T) {
	h := newHub(t, Config{})
	c := h.newConn(httptest.NewRequest("GET", "/", nil), Identity{User: "u"})
	h.index.add(c, 0, 0)
	defer h.index.remove(c)
	groups := make([]string, 2*indexStep)
	for i := range groups {
		groups[i] = fmt.Sprint("g", i)
	}
	topics := groupTopics(groups)
	for range 200 {
		var joining sync.WaitGroup
		joining.Go(func() { h.index.joinGroups(c, groups, 0) })
		for n := 0; n == 0 || !h.index.holds(c, topics[len(topics)-1]); n++ {
			if n := h.index.countWith(c, topics); n > len(topics) {
				t.Fatalf("%d groups are counted as %d", len(topics), n)
			}
		}
		joining.Wait()
		for _, g := range groups {
			h.index.leaveGroup(c, g)
		}
	}
}

// The ids that clients are told have a signature behind them.
func TestSignedIDs(t *testing.T) {
	signed := []string{"n.1", "n.2~c2ln", "a~b.3", "a~b.4~c2ln-_", "n.5~"}
	before := slices.Clone(signed)
	want := []string{"n.1", "n.2", "a~b.3", "a~b.4", "n.5"}
	for what, target := range map[string]Target{"Connection": Connection(signed...), "Except": Everyone().Except(signed...)} {
		ids := slices.Concat(target.ids, target.except)
		if err := target.check(); err != nil || !slices.Equal(ids, want) {
			t.Errorf("%s: %q, %v, want %q", what, ids, err, want)
		}
	}
	if !slices.Equal(signed, before) {
		t.Errorf("the caller's ids are %q now", signed)
	}
	k := &keeping{logs: &logs{key: []byte("key")}}
	if ids := unsigned([]string{k.sign("u", "n.7")}); ids[0] != "n.7" {
		t.Errorf("%q", ids)
	}
	for _, bad := range []string{"n", "~", "n~c2ln", "n.~c2ln", ".1~c2ln", "", "n.00", "n.01"} {
		if target := Connection(bad); !errors.Is(target.check(), ErrInvalid) {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestWithout(t *testing.T) {
	for _, test := range []struct{ topics, some, want string }{
		{"a b c", "b", "a c"}, {"a b", "b a", ""}, {"a a b", "a b", "a"}, {"a a", "a", "a"}, {"a", "", "a"},
	} {
		got := without(strings.Fields(test.topics), strings.Fields(test.some))
		if !slices.Equal(got, strings.Fields(test.want)) && len(got)+len(test.want) > 0 {
			t.Errorf("%q without %q is %q", test.topics, test.some, got)
		}
	}
}

// What is joined twice in one call is followed once.
func TestJoinTwice(t *testing.T) {
	r := newPipeRig(t, Config{Bus: NewMemoryNetwork().Bus(), Registry: NewMemoryRegistry()})
	ws := r.pipe("user=u&groups=g")
	r.only()
	for range 2 {
		if err := r.Join(t.Context(), User("u"), "g", "h", "h"); err != nil {
			t.Error(err)
		}
	}
	if err := r.Leave(t.Context(), User("u"), "h", "h"); err != nil {
		t.Error(err)
	}
	ws.Close()
	r.ended(1)
	r.clean()
}

// A call does not wait for a node that said goodbye before the call was pending.
func TestGoodbyeBeforeTheCall(t *testing.T) {
	h := newHub(t, Config{Bus: NewMemoryNetwork().Bus(), Registry: NewMemoryRegistry()})
	p := &pendingCall{missing: map[string]bool{h.id: true, "gone-1": true}, done: make(chan struct{})}
	h.calls.excuseLeft(p)
	if len(p.missing) != 1 || !p.missing[h.id] || isClosed(p.done) {
		t.Errorf("it waits for %v", p.missing)
	}
}
