package herald

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/heraldgo/herald/internal/test/badserver"
)

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

// hostilePackets are what no node sends, whatever its application asks for.
func hostilePackets(h *Hub) map[string]Packet {
	frame := Text("x").frame()
	const many = 16 << 20
	join := envelope{kind: kindCall, sender: h.id, id: 1, call: call{op: opJoin, target: targetEveryone, groups: names(20_000)}}
	except := envelope{kind: kindMessage, filter: filter{exceptUsers: names(20_000)}, message: Text("x")}
	long := envelope{kind: kindDirect, conns: []string{strings.Repeat("x", 2<<20) + ".1"}, message: Text("x")}
	return map[string]Packet{
		"16 million empty ids":         {h.nodeTopic, append(append([]byte{envelopeVersion, byte(kindDirect), 0}, emptyNames(many)...), frame...)},
		"16 million users left out":    {topicEveryone, append(append([]byte{envelopeVersion, byte(kindMessage), flagFilter, 0}, emptyNames(many)...), append([]byte{0}, frame...)...)},
		"an empty user left out":       {topicEveryone, append([]byte{envelopeVersion, byte(kindMessage), flagFilter, 0, 1, 0, 0}, frame...)},
		"20,000 users left out":        {topicEveryone, except.encode()},
		"a Join of 20,000 groups":      {h.nodeTopic, join.encode()},
		"an id of 2 MB":                {h.nodeTopic, long.encode()},
		"a message over MaxSendSize":   {topicEveryone, (&envelope{kind: kindMessage, message: Binary(make([]byte, 1<<20+1))}).encode()},
		"an answer of 16 MB":           {h.nodeTopic, (&envelope{kind: kindAnswer, sender: h.id, id: 1, err: strings.Repeat("x", 16<<20)}).encode()},
		"a heartbeat of 16 MB of node": {topicHeartbeat, (&envelope{kind: kindHeartbeat, sender: strings.Repeat("x", 16<<20), id: 1}).encode()},
	}
}

// They are counted and make a Gap, and cost neither memory nor time.
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

// What a node would refuse is not sent: the caller is told which rule it is.
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

// A call that would change more than a node's share of memberships is answered
// with an error, and changes none.
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

// A call that names a Conn many times is about it once.
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

// What waits to be applied is bounded in bytes: calls over that are counted, and
// not answered.
func TestFloodOfCalls(t *testing.T) {
	h := newHub(t, Config{})
	s := newCalls(h.id, &h.config, h.index, h.follower, h.presence, h.publish, h.stopped, &h.stats) // nobody applies what it gets
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
		h.take(Packet{h.nodeTopic, e.encode()}, nil)
	}
	if n := len(h.calls.queue); n < 10 || n > maxCallBytes>>20 {
		t.Errorf("%d calls of 1 MB wait", n)
	}
	if n := h.Stats().CallsRefused; n != uint64(calls-len(h.calls.queue)) {
		t.Errorf("CallsRefused is %d, and %d wait of %d", n, len(h.calls.queue), calls)
	}
}

// A small message behind a large header does not hold that while it waits.
func TestQueuedFrameHoldsNoHeader(t *testing.T) {
	r := newRig(t, Config{WriteTimeout: time.Hour})
	r.connect("user=a")
	c := r.only()
	c.mu.Lock() // nothing is written meanwhile
	c.queue.owner = ownerDrain
	c.mu.Unlock()
	filter := filter{exceptUsers: []string{strings.Repeat("x", maxListedBytes)}}
	e := envelope{kind: kindMessage, filter: filter, message: Text("x")}
	data := e.encode()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for range 100 {
		r.take(Packet{userTopic("a"), append([]byte(nil), data...)}, nil)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if n := int64(after.HeapAlloc) - int64(before.HeapAlloc); n > 10<<20 {
		t.Errorf("100 messages of a byte hold %d MB", n>>20)
	}
	c.kill(ErrClosed)
}
