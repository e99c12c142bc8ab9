package herald

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A Conn that is evicted before its client has the 101 tells it so, and is no
// 503: the client would come again.
func TestEvictedBeforeThe101(t *testing.T) {
	for name, result := range map[string]error{"added": nil, "not added": ErrRegistryDown} {
		t.Run(name, func(t *testing.T) {
			online := make(chan string, 1)
			registry := &hookedRegistry{MemoryRegistry: NewMemoryRegistry()}
			r := newRig(t, Config{Bus: NewMemoryNetwork().Bus(), Registry: registry, OnOnline: func(user string) { online <- user }})
			registry.afterAdd = func(entries []Entry) error {
				r.index.withID(r.id, entries[0].Session.ID).shut(&CloseError{Code: StatusReplaced, Reason: "newer"})
				return result
			}
			ws := r.connect("")
			if closed, err := ws.ReadClose(); err != nil || StatusCode(closed.Code) != StatusReplaced {
				t.Errorf("%v, %v", closed, err)
			}
			ws.Close()
			if result == nil { // OnOffline will be told, so OnOnline is
				<-online
			}
			r.clean()
		})
	}
}

// A handshake that gives up while the Registry takes its Conn is followed by
// OnOnline and OnOffline all the same.
func TestOnOnlineOfAHandshakeThatFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		events := make(chan string, 2)
		registry := &hookedRegistry{MemoryRegistry: NewMemoryRegistry()}
		r := newPipeRig(t, Config{
			Bus: NewMemoryNetwork().Bus(), Registry: registry,
			HandshakeTimeout: time.Second,
			OnOnline:         func(user string) { events <- user + " on" },
			OnOffline:        func(user string) { events <- user + " off" },
		})
		registry.afterAdd = func([]Entry) error { time.Sleep(3 * time.Second); return nil }
		if status := r.pipeRefused("user=a"); status != http.StatusServiceUnavailable {
			t.Errorf("status %d", status)
		}
		for _, want := range []string{"a on", "a off"} {
			if got := <-events; got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		}
		r.clean()
	})
}

// Where the Registry fails the client is told to come again: by 503, or by
// 1013 under RejectAfterUpgrade.
func TestRefusedByTheRegistry(t *testing.T) {
	for _, after := range []bool{false, true} {
		registry := &hookedRegistry{MemoryRegistry: NewMemoryRegistry(), afterAdd: func([]Entry) error { return ErrRegistryDown }}
		r := newRig(t, Config{Bus: NewMemoryNetwork().Bus(), Registry: registry, RejectAfterUpgrade: after})
		if !after {
			r.refusedWith(http.StatusServiceUnavailable, "")
		} else {
			ws := r.connect("")
			if closed, err := ws.ReadClose(); err != nil || StatusCode(closed.Code) != StatusTryAgainLater {
				t.Errorf("%v, %v", closed, err)
			}
			ws.Close()
		}
		r.clean()
		if n := r.Stats().Rejected; n != 1 {
			t.Errorf("Rejected is %d", n)
		}
	}
}

// A watchedContext counts what waits for its end.
type watchedContext struct {
	context.Context
	done    chan struct{}
	waiting atomic.Int32
}

func (c *watchedContext) Done() <-chan struct{} { return c.done }

func (c *watchedContext) Err() error {
	select {
	case <-c.done:
		return context.Canceled
	default:
		return nil
	}
}

// AfterFunc is what package context uses where a parent has it.
func (c *watchedContext) AfterFunc(f func()) func() bool {
	c.waiting.Add(1)
	stop := make(chan struct{})
	go func() {
		select {
		case <-c.done:
			f()
		case <-stop:
		}
	}()
	return sync.OnceValue(func() bool {
		c.waiting.Add(-1)
		close(stop)
		return true
	})
}

// ConnContext gives values. That its context ends does not end the Conn, and
// no request leaves anything on it.
func TestConnContextGivesValuesOnly(t *testing.T) {
	type key struct{}
	for _, after := range []bool{false, true} {
		parent := &watchedContext{Context: context.WithValue(context.Background(), key{}, "value"), done: make(chan struct{})}
		r := newRig(t, Config{
			MaxConnsPerUser: 1, RejectAfterUpgrade: after,
			ConnContext: func(*http.Request) context.Context { return parent },
			OnMessage: func(ctx context.Context, c *Conn, m Message) {
				if ctx.Value(key{}) != "value" || ctx.Err() != nil {
					t.Errorf("value %v, error %v", ctx.Value(key{}), ctx.Err())
				}
				c.Send(m)
			},
		})
		ws := r.connect("")
		close(parent.done)
		ws.WriteFrames(textFrame("still here"))
		if b, err := ws.ReadMessage(); err != nil || string(b) != "still here" {
			t.Errorf("%q, %v", b, err)
		}
		for range 10 {
			if !after {
				r.refusedWith(http.StatusTooManyRequests, "")
				continue
			}
			late := r.connect("")
			if _, err := late.ReadClose(); err != nil {
				t.Error(err)
			}
			late.Close()
		}
		ws.Close()
		r.ended(1)
		r.clean()
		if n := parent.waiting.Load(); n != 0 {
			t.Errorf("%d are left on the context", n)
		}
	}
}

// Writes are taken in the order in which they were asked for, each once, no
// Conn twice in a batch. The memory of a long list does not stay.
func TestPresenceNext(t *testing.T) {
	p := newPresence("", nil, nil, nil, nil, nil, nil, nil)
	id := func(i int) string { return strconv.Itoa(i) }
	for _, count := range []int{1, 2, presenceBatch, presenceBatch + 1, 40 * presenceBatch, 3} {
		p.ops = make([]presenceOp, 0, count+1)
		long := addresses(p.ops[:count+1])
		for i := range count {
			p.append(presenceOp{entry: Entry{Session: Session{ID: id(i)}}})
		}
		p.append(presenceOp{entry: Entry{Session: Session{ID: id(count - 1)}}}) // the same once more
		want := 0
		for ops := p.next(); len(ops) > 0; ops = p.next() {
			for _, op := range ops {
				if op.entry.Session.ID != id(min(want, count-1)) {
					t.Fatalf("of %d writes: %q came as number %d", count, op.entry.Session.ID, want)
				}
				want++
			}
			if n := len(ops); n > 1 && ops[n-1].entry.Session.ID == ops[n-2].entry.Session.ID {
				t.Errorf("of %d writes: a Conn twice in a batch", count)
			}
			p.recycle(ops)
		}
		if want != count+1 {
			t.Errorf("of %d writes %d came", count+1, want)
		}
		if kept := p.spare[:1]; count > 2*presenceBatch && slices.Contains(long, &kept[0]) {
			t.Error("the memory of a long list is kept for its end")
		}
	}
	p.append(presenceOp{entry: Entry{Session: Session{ID: "a"}}})
	ops := p.next()
	p.append(presenceOp{entry: Entry{Session: Session{ID: "b"}}})
	if ops[0].entry.Session.ID != "a" || len(ops) != 1 {
		t.Errorf("what is being written has become %+v", ops)
	}
}

// addresses are those of the elements of ops.
func addresses(ops []presenceOp) (all []*presenceOp) {
	for i := range ops {
		all = append(all, &ops[i])
	}
	return all
}
