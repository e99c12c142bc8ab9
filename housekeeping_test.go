package herald

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A hookedRegistry runs a hook after each Add and Remove, and returns its error.
type hookedRegistry struct {
	*MemoryRegistry
	afterAdd, afterRemove func([]Entry) error
}

func (r *hookedRegistry) Add(ctx context.Context, l Lease, entries ...Entry) ([]Added, error) {
	added, err := r.MemoryRegistry.Add(ctx, l, entries...)
	if err == nil && r.afterAdd != nil {
		err = r.afterAdd(entries)
	}
	return added, err
}

func (r *hookedRegistry) Remove(ctx context.Context, l Lease, entries ...Entry) error {
	err := r.MemoryRegistry.Remove(ctx, l, entries...)
	if err == nil && r.afterRemove != nil {
		err = r.afterRemove(entries)
	}
	return err
}

// Writes that are dropped because the lease could not be renewed are made as soon
// as it can, for however many Conns.
func TestDroppedWritesAreMended(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := NewMemoryRegistry()
		r := newPipeRig(t, Config{Bus: NewMemoryNetwork().Bus(), Registry: registry.Handle(), MaxConnsPerUser: -1})
		const n = auditStep + 50 // more than one step of an audit
		leaver := r.pipe("user=leaver")
		for range n {
			go r.pipe("")
		}
		r.await("Conns", func() bool { return r.Stats().Conns == n+1 })
		cut := r.registry.(*MemoryRegistry)
		cut.cut.Store(true)
		time.Sleep(r.config.Lease * 2 / 5)
		if err := r.Health(); !errors.Is(err, ErrRegistryDown) {
			t.Errorf("Health: %v", err)
		}
		cut.cut.Store(false)
		// The Registry is back and housekeeping has run, but the lease is not
		// renewed yet.
		r.presence.housekeep()
		synctest.Wait()
		leaver.Close()
		var partial *PartialError
		if err := r.Join(t.Context(), User("u"), "g"); !errors.As(err, &partial) {
			t.Errorf("Join: %v", err)
		}
		time.Sleep(time.Second) // until the next try to renew it
		synctest.Wait()
		if err := r.Health(); err != nil {
			t.Errorf("Health: %v", err)
		}
		members, err := r.Sessions(t.Context(), Group("g"))
		if err != nil || len(members) != n {
			t.Errorf("%d members, %v", len(members), err)
		}
		if entries := entriesOf(t, r.Hub); len(entries) != n {
			t.Errorf("%d entries, want %d", len(entries), n)
		}
	})
}

// A checkedRegistry reports each Check, and the number of its entries.
type checkedRegistry struct {
	*MemoryRegistry
	asked func(entries int)
}

func (r *checkedRegistry) Check(ctx context.Context, l Lease, entries ...Entry) ([]Entry, error) {
	r.asked(len(entries))
	return r.MemoryRegistry.Check(ctx, l, entries...)
}

// An audit of many Conns goes in steps. In the pauses between them messages have
// their turn.
func TestAuditPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := &checkedRegistry{MemoryRegistry: NewMemoryRegistry()}
		var mu sync.Mutex
		var at []time.Time
		registry.asked = func(n int) {
			mu.Lock()
			defer mu.Unlock()
			at = append(at, time.Now())
			if n > auditStep {
				t.Errorf("%d Conns in a step", n)
			}
		}
		r := newPipeRig(t, Config{Bus: NewMemoryNetwork().Bus(), Registry: registry, MaxConnsPerUser: -1})
		const n = 9*auditStep - 9 // three steps in each third of a lease
		for range n {
			go r.pipe("")
		}
		r.await("Conns", func() bool { return r.Stats().Conns == n })
		time.Sleep(r.config.Lease / 6) // between two audits
		mu.Lock()
		at = nil
		mu.Unlock()
		time.Sleep(r.config.Lease)
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		var all []time.Duration // the pauses
		for i := 1; i < len(at); i++ {
			if pause := at[i].Sub(at[i-1]); pause < time.Second/2 { // both are of the same audit
				all = append(all, pause)
			}
		}
		if len(all) != 3*2 || slices.ContainsFunc(all, func(d time.Duration) bool { return d != auditPause }) {
			t.Errorf("the pauses were %v", all)
		}
	})
}

// An audit that meets a Leave halfway removes the group's place, never the user's.
func TestAuditNeverHidesAUser(t *testing.T) {
	registry := &hookedRegistry{MemoryRegistry: NewMemoryRegistry()}
	var hidden atomic.Int32
	registry.afterRemove = func([]Entry) error {
		if there, err := registry.Sessions(context.Background(), Lease{}, userTopic("a")); err != nil || len(there[0]) == 0 {
			hidden.Add(1)
		}
		return nil
	}
	r := newRig(t, Config{Bus: NewMemoryNetwork().Bus(), Registry: registry})
	ws := r.connect("user=a&groups=g,h")
	defer ws.Close()
	conn := r.only()
	entries := entriesOf(t, r.Hub)
	r.index.leaveGroup(conn, "g") // the write of this is still to come
	k := &housekeeping{p: r.presence}
	for _, e := range entries {
		k.check(e)
	}
	if err := r.presence.barrier(t.Context()); err != nil {
		t.Fatal(err)
	}
	for group, want := range map[string]int{"g": 0, "h": 1} {
		if members, err := r.Sessions(t.Context(), Group(group)); err != nil || len(members) != want {
			t.Errorf("group %s has %v, %v", group, members, err)
		}
	}
	if n := hidden.Load(); n > 0 {
		t.Errorf("the user was hidden %d times", n)
	}
	r.follower.Unfollow(groupTopic("g"))
}

// An idle node keeps its lease.
func TestIdleNodeRenewsItsLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := NewMemoryRegistry()
		r := newPipeRig(t, Config{Bus: NewMemoryNetwork().Bus(), Registry: registry.Handle(), ProbeInterval: -1})
		for i := range 50 {
			time.Sleep(r.config.Lease / 5)
			nodes, _, err := registry.Nodes(t.Context())
			if err != nil || len(nodes) != 1 || !nodes[0].Alive {
				t.Fatalf("after %d fifths of a lease: %v, %v", i+1, fmt.Sprint(nodes), err)
			}
		}
	})
}

// A Registry that was away for so short a time that no renewal failed may still
// have lost its last writes, as in a failover. They are made again at once, for
// however many Conns.
func TestShortOutageIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := NewMemoryRegistry()
		r := newPipeRig(t, Config{Bus: NewMemoryNetwork().Bus(), Registry: registry.Handle(), MaxConnsPerUser: -1})
		const n = 2*auditStep + 50 // more than two steps of an audit
		for range n {
			go r.pipe("")
		}
		r.await("Conns", func() bool { return r.Stats().Conns == n })
		renewed := r.presence.renewed.Load()
		r.await("a renewal", func() bool { return r.presence.renewed.Load() != renewed })
		time.Sleep(100 * time.Millisecond) // so that this is between two rounds of housekeeping
		cut := r.registry.(*MemoryRegistry)
		entries := entriesOf(t, r.Hub)
		cut.cut.Store(true)
		time.Sleep(2 * time.Second)
		if err := registry.Remove(t.Context(), Lease{}, entries...); err != nil {
			t.Fatal(err)
		}
		cut.cut.Store(false)
		if err := r.Health(); err != nil {
			t.Errorf("Health: %v, but nothing should have been noticed", err)
		}
		time.Sleep(r.config.Lease/3 + time.Second)
		synctest.Wait()
		if sessions, err := r.Sessions(t.Context(), User("u")); err != nil || len(sessions) != n {
			t.Errorf("%d sessions are listed (%v), want %d", len(sessions), err, n)
		}
	})
}

// lostRig returns a rig with n Conns, and a handle on which the test can remove
// entries from its Registry unseen.
func lostRig(t *testing.T, n int, config Config) (r *rig, behind *MemoryRegistry, lines logLines) {
	logger, lines := newLog()
	behind = NewMemoryRegistry()
	config.Bus, config.Logger, config.MaxConnsPerUser, config.PingInterval = NewMemoryNetwork().Bus(), logger, -1, -1
	if config.Registry == nil {
		config.Registry = behind.Handle()
	}
	r = newPipeRig(t, config)
	for i := range n {
		go r.pipe(fmt.Sprintf("user=u%d&groups=g", i))
	}
	r.await("Conns", func() bool { return r.Stats().Conns == n })
	// From here on, audits come at regular times and find nothing. Tests lose
	// entries between two of them.
	time.Sleep(2*r.config.Lease + time.Second)
	if s := r.Stats(); s.Mended != 0 {
		t.Errorf("%d sessions were put back, before any was lost", s.Mended)
	}
	return r, behind, lines
}

// told drains the log and counts the lines that contain text.
func told(lines logLines, text string) (n int) {
	for {
		select {
		case line := <-lines:
			if strings.Contains(line, text) {
				n++
			}
		default:
			return n
		}
	}
}

// A loss in the Registry that comes without an error or a new link is found within
// a lease, however many Conns there are. The entries are put back at once and
// counted, and the log says so once.
func TestLossIsMendedWithinALease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 5*auditStep + 7
		r, behind, lines := lostRig(t, n, Config{})
		for round := range 3 {
			entries := entriesOf(t, r.Hub)
			lost := entries[round*100 : round*100+100]
			for i := range lost {
				if i%2 == 0 { // of some, only the group's place is lost
					lost[i].UserTopic = ""
				}
			}
			if err := behind.Remove(t.Context(), Lease{}, lost...); err != nil {
				t.Fatal(err)
			}
			time.Sleep(r.config.Lease + time.Second)
			synctest.Wait()
			if sessions, err := r.Sessions(t.Context(), Group("g")); err != nil || len(sessions) != n {
				t.Errorf("after a lease %d sessions are listed (%v), want %d", len(sessions), err, n)
			}
			if got, want := r.Stats().Mended, uint64(100*(round+1)); got != want {
				t.Errorf("%d sessions were put back, want %d", got, want)
			}
		}
		if got := told(lines, "the Registry had lost sessions"); got != 1 {
			t.Errorf("told %d times, want once", got)
		}
		if err := r.Health(); err != nil {
			t.Error(err)
		}
	})
}

// Audits that failed do not make the next loss news.
func TestLossIsToldOnceInAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := &failingRegistry{MemoryRegistry: NewMemoryRegistry()}
		r, _, lines := lostRig(t, 20, Config{Registry: registry})
		entries := entriesOf(t, r.Hub)
		for _, lost := range [][]Entry{entries[:10], entries[10:]} {
			if err := registry.Remove(t.Context(), Lease{}, lost...); err != nil {
				t.Fatal(err)
			}
			time.Sleep(r.config.Lease/2 + time.Second)
			registry.down.Store(true)
			time.Sleep(r.config.Lease / 2) // there is one try a second
			registry.down.Store(false)
		}
		synctest.Wait()
		if got := r.Stats().Mended; got != 20 {
			t.Errorf("%d sessions were put back, want 20", got)
		}
		if got := told(lines, "the Registry had lost sessions"); got != 1 {
			t.Errorf("told %d times, want once", got)
		}
	})
}

// A failingRegistry compares nothing while it is down.
type failingRegistry struct {
	*MemoryRegistry
	down atomic.Bool
}

func (r *failingRegistry) Check(ctx context.Context, l Lease, entries ...Entry) ([]Entry, error) {
	if r.down.Load() {
		return nil, fmt.Errorf("%w: check", ErrRegistryDown)
	}
	return r.MemoryRegistry.Check(ctx, l, entries...)
}

// If the Registry has lost the index of a lease, the lease counts as lost: all
// entries are added under a new one, and none stays under the old one.
func TestLostLeaseIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := &indexLoser{MemoryRegistry: NewMemoryRegistry()}
		const n = auditStep + 7
		r, _, lines := lostRig(t, n, Config{Registry: registry})
		old := r.presence.current()
		registry.lost.Store(true)
		time.Sleep(r.config.Lease + time.Second)
		synctest.Wait()
		if now := r.presence.current(); now.Generation <= old.Generation {
			t.Errorf("the lease is %v, and was %v", now, old)
		}
		if entries := entriesOf(t, r.Hub); len(entries) != n {
			t.Errorf("%d entries under the new lease, want %d", len(entries), n)
		}
		if got := r.Stats().Mended; got != n {
			t.Errorf("%d sessions were put back, want %d", got, n)
		}
		if got := told(lines, "had lost this node's lease"); got != 1 {
			t.Errorf("told %d times, want once", got)
		}
		time.Sleep(3 * r.config.Lease)
		nodes, _, err := registry.Nodes(t.Context())
		if err != nil || len(nodes) != 1 {
			t.Errorf("nodes are %v (%v), want the one", nodes, err)
		}
	})
}

// What is left under an earlier lease of the node is swept, but no dead node is told of.
func TestEarlierLeaseIsNoDeadNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, behind, lines := lostRig(t, 1, Config{})
		// A renewal whose answer never came, and an entry that was written late.
		generation, err := behind.KeepAlive(t.Context(), Node{ID: r.NodeID()}, r.config.Lease)
		late := Lease{r.NodeID(), generation}
		if err == nil {
			e := entriesOf(t, r.Hub)[0]
			e.Session.ID += "0"
			_, err = behind.Add(t.Context(), late, e)
		}
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(4 * r.config.Lease)
		synctest.Wait()
		nodes, _, err := behind.Nodes(t.Context())
		if err != nil || len(nodes) != 1 || nodes[0].Lease() == late {
			t.Errorf("the nodes are %v (%v), want the one under its new lease", nodes, err)
		}
		if got := told(lines, "dead node"); got != 0 {
			t.Errorf("told of a dead node %d times", got)
		}
	})
}

// An indexLoser says once, in Check, that it has lost the lease.
type indexLoser struct {
	*MemoryRegistry
	lost atomic.Bool
}

func (r *indexLoser) Check(ctx context.Context, l Lease, entries ...Entry) ([]Entry, error) {
	if r.lost.Swap(false) {
		return nil, fmt.Errorf("check: %w", ErrLeaseLost)
	}
	return r.MemoryRegistry.Check(ctx, l, entries...)
}

// The log tells once of a node whose record cannot be understood.
func TestUnknownNodeIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := &strangeRegistry{MemoryRegistry: NewMemoryRegistry()}
		r, _, lines := lostRig(t, 1, Config{Registry: registry})
		time.Sleep(5 * r.config.Lease)
		if got := told(lines, "node=later-1 err=\"its lease has format 2"); got != 1 {
			t.Errorf("told %d times, want once", got)
		}
		if nodes, err := r.Nodes(t.Context()); err != nil || len(nodes) != 1 {
			t.Errorf("nodes that live: %v (%v), want this one", nodes, err)
		}
	})
}

// The log tells once of a node that was never heard but lives: it renews its lease,
// or has a longer one than a dead node could. If the node died before this one
// started, the log tells only of the sweep.
func TestUnheardNodeIsToldOfIfItLives(t *testing.T) {
	for name, test := range map[string]struct {
		renews bool
		ttl    time.Duration // in leases
		want   int
	}{
		"died":                  {ttl: 1},
		"lives":                 {ttl: 1, renews: true, want: 1},
		"claims to live longer": {ttl: 1000, want: 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, behind, lines := lostRig(t, 1, Config{})
				node, ttl := Node{ID: "other-1"}, test.ttl*r.config.Lease
				renew := func() {
					var err error
					if node.Generation, err = behind.KeepAlive(t.Context(), node, ttl); err != nil {
						t.Fatal(err)
					}
				}
				renew()
				for range 4 * 6 { // as often as a node does
					time.Sleep(r.config.Lease / 6)
					if test.renews {
						renew()
					}
				}
				synctest.Wait()
				never, swept := 0, 0
				for len(lines) > 0 {
					line := <-lines
					if strings.Contains(line, "never heard") && strings.Contains(line, "node=other-1") {
						never++
					}
					if strings.Contains(line, "swept the sessions of a dead node") {
						swept++
					}
				}
				if never != test.want {
					t.Errorf("told %d times of a node that was never heard, want %d", never, test.want)
				}
				if want := 1 - test.want; swept != want {
					t.Errorf("told %d times of a sweep, want %d", swept, want)
				}
			})
		})
	}
}

type strangeRegistry struct{ *MemoryRegistry }

func (r *strangeRegistry) Nodes(ctx context.Context) ([]Node, time.Time, error) {
	nodes, now, err := r.MemoryRegistry.Nodes(ctx)
	return append(nodes, Node{ID: "later-1", Err: errors.New("its lease has format 2")}), now, err
}

// If a Conn is evicted before its client has the 101, the client is told so. A 503
// would make it come again.
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
			if result == nil { // OnOffline will be called, so OnOnline must be too
				<-online
			}
			r.clean()
		})
	}
}

// If a handshake gives up while the Registry is adding its Conn, OnOnline and
// OnOffline are called all the same.
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

// If the Registry fails, the client is told to come again with a 503, even under
// RejectAfterUpgrade.
func TestRefusedByTheRegistry(t *testing.T) {
	for _, after := range []bool{false, true} {
		registry := &hookedRegistry{MemoryRegistry: NewMemoryRegistry(), afterAdd: func([]Entry) error { return ErrRegistryDown }}
		r := newRig(t, Config{Bus: NewMemoryNetwork().Bus(), Registry: registry, RejectAfterUpgrade: after})
		r.refusedWith(http.StatusServiceUnavailable, "")
		r.clean()
		if n := r.Stats().Rejected; n != 1 {
			t.Errorf("Rejected is %d", n)
		}
	}
}

// A watchedContext counts the functions that wait for its end.
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

// Package context calls AfterFunc if a parent has it.
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

// The context of ConnContext only gives values. Its end does not end the Conn, and
// no request leaves a function waiting for it.
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

// Writes are taken in the order in which they were asked for, each once, and no
// Conn is twice in a batch. The memory of a long list is not kept.
func TestPresenceNext(t *testing.T) {
	p := newPresence("", nil, nil, nil, nil, nil, nil, nil)
	id := func(i int) string { return strconv.Itoa(i) }
	for _, count := range []int{1, 2, presenceBatch, presenceBatch + 1, 40 * presenceBatch, 3} {
		p.ops = make([]presenceOp, 0, count+1)
		long := addresses(p.ops[:count+1])
		for i := range count {
			p.append(presenceOp{entry: Entry{Session: Session{ID: id(i)}}})
		}
		p.append(presenceOp{entry: Entry{Session: Session{ID: id(count - 1)}}}) // the same Conn again
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

// addresses returns the addresses of the elements of ops.
func addresses(ops []presenceOp) (all []*presenceOp) {
	for i := range ops {
		all = append(all, &ops[i])
	}
	return all
}

// An entry that the Registry refuses, say because somebody keeps spoiling its key
// in Redis, fails its own handshake and none of those that are written with it.
func TestRefusedEntryFailsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := &hookedRegistry{MemoryRegistry: NewMemoryRegistry()}
		registry.afterAdd = func(entries []Entry) error {
			if slices.ContainsFunc(entries, func(e Entry) bool { return e.Session.User == "victim" }) {
				return errors.New("WRONGTYPE")
			}
			return nil
		}
		r := newPipeRig(t, Config{Bus: NewMemoryNetwork().Bus(), Registry: registry})
		users := []string{"a", "b", "victim", "c", "d"}
		ops := make([]presenceOp, len(users))
		for i, user := range users {
			c := &Conn{hub: r.Hub, counter: uint64(100 + i), identity: Identity{User: user}}
			ops[i] = presenceOp{c: c, add: true, entry: c.entry([]string{userTopic(user)}), done: make(chan presenceResult, 1)}
		}
		r.presence.mu.Lock() // so that all are in one batch
		r.presence.ops = append(r.presence.ops, ops...)
		r.presence.mu.Unlock()
		r.presence.wake.Set()
		for i, op := range ops {
			result := <-op.done
			if refused := users[i] == "victim"; (result.err != nil) != refused {
				t.Errorf("%s: %v", users[i], result.err)
			}
			if result.err == nil && result.added.Since.IsZero() {
				t.Errorf("%s has no Since", users[i])
			}
		}
	})
}

// A Leave that comes while a Conn is being registered takes its place in the Registry away,
// whichever comes first.
func TestLeaveDuringAdd(t *testing.T) {
	r := newPipeRig(t, Config{Bus: NewMemoryNetwork().Bus(), Registry: NewMemoryRegistry()})
	r.pipe("groups=g")
	c := r.only()
	left := make(chan error, 1)
	c.mu.Lock() // as add does
	entry := r.presence.entry(c)
	go func() { left <- c.Leave(t.Context(), "g") }()
	await(t, "the index to have nobody in the group", func() bool { return len(r.index.appendConns(nil, groupTopic("g"))) == 0 })
	time.Sleep(10 * time.Millisecond) // for a removal that does not wait
	r.presence.append(presenceOp{c: c, add: true, entry: entry})
	c.mu.Unlock()
	if err := <-left; err != nil {
		t.Error(err)
	}
	if err := r.presence.barrier(t.Context()); err != nil {
		t.Error(err)
	}
	if sessions, err := r.Sessions(t.Context(), Group("g")); err != nil || len(sessions) != 0 {
		t.Errorf("in the group are %v, %v", sessions, err)
	}
}
