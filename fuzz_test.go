package herald

import (
	"bytes"
	"reflect"
	"runtime"
	"testing"

	"github.com/heraldgo/herald/internal/wsframe"
)

// envelopes are one of each kind.
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
	}
}

// fuzzFrame is the largest frame that these tests take.
const fuzzFrame = 1 << 17

// decodeAgain is decodeEnvelope, with the message in place of its frame: what
// encode would make b from.
func decodeAgain(b []byte) (envelope, error) {
	e, err := decodeEnvelope(b, fuzzFrame)
	if err == nil && e.kind <= kindDirect {
		payload, _ := wsframe.Payload(e.frame)
		e.message = Message{data: payload, text: e.frame[0] == wsframe.Text}
		e.frame = nil
	}
	return e, err
}

// What a node writes, every node reads as it was; what is cut or has more at
// its end is refused, or is another whole message, and never a panic.
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

func FuzzEnvelope(f *testing.F) {
	for _, e := range envelopes() {
		f.Add(e.encode())
		f.Add(extend(e.encode(), 2, "skipped"))
	}
	f.Add([]byte{})
	f.Add([]byte{envelopeVersion, byte(kindDirect), 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Add(append([]byte{envelopeVersion, byte(kindDirect), 0}, emptyNames(fuzzFrame)...))
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
		if e.kind <= kindDirect {
			if !wsframe.Valid(e.message.frame()) {
				t.Fatalf("the frame of message %q is not valid", e.message.data[:min(len(e.message.data), 20)])
			}
		}
	})
}
