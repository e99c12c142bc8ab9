package herald

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/heraldgo/herald/internal/frame"
	"github.com/heraldgo/herald/internal/test/wsraw"
)

// A recorder is a Tracer that notes what it is told. It gives each Send the next
// TraceID, but for one whose context says that it is not sampled.
type recorder struct {
	mu    sync.Mutex
	sends byte
	notes []string
}

type unsampled struct{}

func (r *recorder) note(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.notes = append(r.notes, fmt.Sprintf(format, args...))
}

// take returns the notes in order, and forgets them.
func (r *recorder) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	notes := r.notes
	r.notes = nil
	slices.Sort(notes)
	return notes
}

func (r *recorder) TraceSend(ctx context.Context, s TracedSend) (t TraceContext, end func(error)) {
	if ctx.Value(unsampled{}) == nil {
		r.mu.Lock()
		r.sends++
		t = TraceContext{TraceID: [16]byte{r.sends}, SpanID: [8]byte{7: r.sends}, Flags: 1}
		r.mu.Unlock()
	}
	return t, func(err error) { r.note("%s to %d of %s, %d bytes: %v", s.Call, s.Names, s.Target, s.Size, err) }
}

func (r *recorder) TraceDelivery(t TraceContext) func(int) {
	if t.TraceID[0] != t.SpanID[7] || t.Flags != 1 {
		r.note("the trace is %v", t)
	}
	return func(conns int) { r.note("delivery of %d to %d", t.TraceID[0], conns) }
}

// answerPings reads until the connection ends.
func answerPings(ws *wsraw.Conn) {
	for {
		f, err := ws.ReadFrame()
		if err != nil {
			return
		}
		if f.Opcode|0x80 == frame.Ping {
			ws.WriteFrames(wsraw.Frame{Fin: true, Opcode: frame.Pong & 0xf, Payload: f.Payload})
		}
	}
}

// A Tracer hears of each call, and on each node that has connections for it of what
// the call has sent, whatever else the envelope carries.
func TestTracer(t *testing.T) {
	for _, retention := range []time.Duration{0, time.Minute} {
		t.Run(fmt.Sprint("Retention ", retention), func(t *testing.T) {
			tracer := new(recorder)
			rigs := newPair(t, false, Config{Tracer: tracer, Retention: retention})
			for i, r := range rigs {
				go answerPings(r.connect("user=u&groups=a,b"))
				r.connect(fmt.Sprint("user=alone&device=", i))
			}
			settled(t, rigs)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			send := func(t Target) func() error {
				return func() error { return rigs[0].Send(ctx, t, Text("Hello")) }
			}
			ids := rigs[1].findUser("u").ID()
			for _, test := range []struct {
				call func() error
				want []string
			}{
				{send(User("u")), []string{"Send to 1 of user, 5 bytes: <nil>", "delivery of 1 to 1", "delivery of 1 to 1"}},
				{send(Everyone().ExceptUser("u")), []string{"Send to 0 of everyone, 5 bytes: <nil>", "delivery of 2 to 1", "delivery of 2 to 1"}},
				{send(Group("a", "b")), []string{"Send to 2 of group, 5 bytes: <nil>", "delivery of 3 to 0", "delivery of 3 to 0", "delivery of 3 to 1", "delivery of 3 to 1"}},
				{send(Connection(ids)), []string{"Send to 1 of connection, 5 bytes: <nil>", "delivery of 4 to 1"}},
				{func() error { return rigs[0].Send(context.WithValue(ctx, unsampled{}, true), User("u"), Text("")) }, []string{"Send to 1 of user, 0 bytes: <nil>"}},
				{send(User("nobody")), []string{"Send to 1 of user, 5 bytes: <nil>"}},
				{send(User()), nil},
				{func() error {
					_, err := rigs[0].Deliver(ctx, Group("a"), Binary([]byte{1}))
					return err
				}, []string{"Deliver to 1 of group, 1 bytes: <nil>", "delivery of 6 to 1", "delivery of 6 to 1"}},
			} {
				if err := test.call(); err != nil {
					t.Fatal(err)
				}
				var got []string
				await(t, fmt.Sprintf("%q", test.want), func() bool {
					got = append(got, tracer.take()...)
					return len(got) >= len(test.want)
				})
				if slices.Sort(got); !slices.Equal(got, test.want) {
					t.Fatalf("the Tracer heard %q, want %q", got, test.want)
				}
			}
			cancel()
			err := rigs[0].Send(ctx, User("u"), Text(""))
			if got := tracer.take(); !errors.Is(err, context.Canceled) || len(got) != 1 || !strings.HasSuffix(got[0], err.Error()) {
				t.Errorf("Send with a context that has ended: %v; the Tracer heard %q", err, got)
			}
		})
	}
}

// A trace is read as it was, and is not in the way of what else an envelope has. One
// of another form is skipped.
func TestTraceTravels(t *testing.T) {
	sent := TraceContext{TraceID: [16]byte{1, 15: 2}, SpanID: [8]byte{3, 7: 4}, Flags: 5}
	for _, e := range envelopes() {
		if e.message.data == nil || len(e.message.data) > 100 {
			continue
		}
		e.carrier = sent.encode()
		b := e.encode()
		got, err := decodeAgain(b)
		if err != nil || !reflect.DeepEqual(got, e) || got.carrier.decode() != sent {
			t.Errorf("got %+v, %v, want %+v", got, err, e)
		}
		e.carrier = nil
		if got, err := decodeEnvelope(extend(e.encode(), tagTrace, "short"), fuzzFrame); err != nil || got.carrier != nil {
			t.Errorf("a short trace: %+v, %v", got, err)
		}
	}
	if (&TraceContext{SpanID: sent.SpanID, Flags: 1}).encode() != nil {
		t.Error("a context without a trace travels")
	}
}
