package heraldtest

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/heraldgo/herald"
)

// A RegistryStore is where the handles of one test keep their entries. It is empty
// at first, and no other test uses it.
type RegistryStore struct {
	// Open returns another node's handle on the store.
	Open func() herald.Registry

	// Other returns a handle on the same server under another prefix. If it is
	// nil, the suite skips what needs it.
	Other func() herald.Registry

	// Advance lets time pass, for a store inside testing/synctest. If it is nil,
	// the suite waits, with short leases.
	Advance func(time.Duration)

	// Step steps the store's clock, also back, while no time passes. If it is nil,
	// the suite skips what needs it.
	Step func(time.Duration)
}

// TestRegistry tries to break each of the promises that [herald.Registry]
// makes, in a subtest that has its number, each with a new store.
func TestRegistry(t *testing.T, newStore func(t testing.TB) RegistryStore) {
	for _, p := range registryPromises {
		t.Run(p.name, func(t *testing.T) { p.try(t, newStore(t)) })
	}
}

type registryPromise struct {
	name, text string
	test       func(s *registrySuite)
}

func (p registryPromise) try(t testing.TB, store RegistryStore) {
	if store.Open == nil {
		t.Fatal("RegistryStore.Open must be set")
	}
	p.test(&registrySuite{TB: t, store: store, promise: p.name + ": " + p.text, ctx: t.Context()})
}

var registryPromises = []registryPromise{
	{"01_Add", "Add places each Entry under its topics and replaces; without a lease nothing is added: ErrLeaseLost", testAdd},
	{"02_Since", "a zero Since becomes later than every Since of the user; a set one is kept", testSince},
	{"03_Older", "Older is the user's other Sessions, of live nodes only, with an earlier Since, oldest first", testOlder},
	{"03_Bounded", "Older is answered to who asks, and no more than asked for: the oldest, with their total", testOlderBounded},
	{"03_Online", "Online where the user's last Session had gone and Offline has reported it, or there never was one", testOnline},
	{"03_Again", "an Add that is done again gets the same answer", testAgain},
	{"03_Racing", "of Adds at the same time exactly the later sees the earlier", testRacingAdds},
	{"04_Remove", "Remove takes away exactly these ids, and needs no lease", testRemove},
	{"05_Sessions", "Sessions lists each topic, oldest first, whatever was added before, from any node", testSessions},
	{"05_Online", "Online says for each topic whether there is a Session of a live node", testOnlineTopics},
	{"05_Held", "Sessions and Online need a lease of the asker's that has not run out: ErrLeaseLost", testHeld},
	{"06_KeepAlive", "KeepAlive renews its own generation, or takes one that the node never had", testKeepAlive},
	{"07_Nodes", "Nodes lists all leases that are not gone; a dead node's Sessions are not seen", testNodes},
	{"08_Sweep", "Sweep spares a living lease, else removes what its generation placed, and forgets it", testSweep},
	{"08_Returning", "entries that the node added under a newer generation stay, and nothing is left twice", testReturning},
	{"09_Offline", "Offline takes users gone for the delay who have not come back", testOffline},
	{"09_Once", "each user is handed to one caller", testOfflineOnce},
	{"10_Entries", "Entries walks what the lease's node has under that generation", testEntries},
	{"11_Release", "Release forgets a lease; twice is no error", testRelease},
	{"12_Names", "names are any bytes, and stay themselves", testNames},
	{"12_Prefix", "nothing is seen under another prefix", testPrefix},
	{"13_Time", "Since is the Registry's own time", testTime},
	{"13_Steps", "steps of the Registry's clock neither end a lease that is renewed, nor keep one that is not", testSteps},
	{"14_Context", "methods return when ctx is done, with its error in the chain", testContext},
	{"14_Concurrency", "all methods may be called at the same time", testRegistryConcurrency},
	{"15_Ownership", "what is passed in is not kept, what is returned is the caller's", testRegistryOwnership},
	{"16_Check", "Check returns what the Registry has lost of the entries, and nothing else", testCheck},
	{"17_Watch", "Watch lists the Sessions of each topic with the number of its last change, and needs a lease as Sessions does", testWatch},
	{"17_Day", "a mark lasts for a day at most", testDay},
	{"18_Numbers", "each change of a watched topic has the next number, whichever handle makes it; a mark that is made anew begins above", testNumbers},
	{"18_Sweep", "what Sweep takes away are changes, and so is what is added under a newer lease", testSweptChanges},
	{"18_Racing", "the list and the changes behind its number give what is there", testRacingChanges},
	{"19_Changes", "Changes returns what this handle has changed, once", testChanges},
	{"20_Unwatched", "what lies under topics that nobody watches makes no changes", testUnwatched},
}

// A registrySuite tries one promise.
type registrySuite struct {
	testing.TB
	store   RegistryStore
	promise string
	ctx     context.Context
}

func (s *registrySuite) fail(format string, args ...any) {
	s.Helper()
	s.Fatalf("%s\npromise %s", fmt.Sprintf(format, args...), s.promise)
}

func (s *registrySuite) check(err error) {
	s.Helper()
	if err != nil {
		s.fail("unexpected error: %v", err)
	}
}

func (s *registrySuite) wantErr(err, want error) {
	s.Helper()
	if !errors.Is(err, want) {
		s.fail("error is %v, want %v in the chain", err, want)
	}
}

func (s *registrySuite) equal(what string, got, want any) {
	s.Helper()
	if !reflect.DeepEqual(got, want) {
		s.fail("%s: got %v, want %v", what, got, want)
	}
}

// long is a lease that no test outlives.
const long = 24 * time.Hour

// lease takes a new lease for a node.
func (s *registrySuite) lease(r herald.Registry, node string) herald.Lease {
	s.Helper()
	generation, err := r.KeepAlive(s.ctx, herald.Node{ID: node}, long)
	s.check(err)
	if generation <= 0 {
		s.fail("generation is %d, want above 0", generation)
	}
	return herald.Lease{Node: node, Generation: generation}
}

// kill lets a lease run out.
func (s *registrySuite) kill(r herald.Registry, lease herald.Lease) {
	s.Helper()
	const ttl = 20 * time.Millisecond
	_, err := r.KeepAlive(s.ctx, herald.Node{ID: lease.Node, Generation: lease.Generation}, ttl)
	s.check(err)
	s.await("the lease runs out", ttl, func() bool {
		nodes, _, err := r.Nodes(s.ctx)
		s.check(err)
		i := slices.IndexFunc(nodes, func(n herald.Node) bool { return n.Lease() == lease })
		if i < 0 {
			s.fail("Nodes does not list %v, which nobody swept: %v", lease, nodes)
		}
		return !nodes[i].Alive
	})
}

// await asks until done, in time of the store that passes by step.
func (s *registrySuite) await(what string, step time.Duration, done func() bool) {
	s.Helper()
	for deadline := time.Now().Add(patience); !done(); {
		if time.Now().After(deadline) {
			s.fail("still waiting after %v: %s", patience, what)
		}
		if s.store.Advance != nil {
			s.store.Advance(step)
		} else {
			time.Sleep(5 * time.Millisecond)
		}
	}
}

func userTopic(user string) string { return "u" + user }

// entry places a connection under its user and groups.
func entry(id, user string, groups ...string) herald.Entry {
	return herald.Entry{Session: herald.Session{ID: id, User: user}, UserTopic: userTopic(user), Topics: groups}
}

// asking makes entries ask for older Sessions.
func asking(entries ...herald.Entry) []herald.Entry {
	for i := range entries {
		entries[i].Older = 1000
	}
	return entries
}

func (s *registrySuite) add(r herald.Registry, lease herald.Lease, entries ...herald.Entry) []herald.Added {
	s.Helper()
	added, err := r.Add(s.ctx, lease, entries...)
	s.check(err)
	if len(added) != len(entries) {
		s.fail("Add of %d entries answered %d", len(entries), len(added))
	}
	return added
}

// sessions returns the Sessions of one topic.
func (s *registrySuite) sessions(r herald.Registry, topic string) []herald.Session {
	s.Helper()
	all, err := r.Sessions(s.ctx, herald.Lease{}, topic)
	s.check(err)
	if len(all) != 1 {
		s.fail("Sessions of one topic answered %d", len(all))
	}
	return all[0]
}

// wantIDs checks who is under a topic, in this order.
func (s *registrySuite) wantIDs(r herald.Registry, topic string, want ...string) {
	s.Helper()
	s.equal(fmt.Sprintf("sessions of %q", topic), ids(s.sessions(r, topic)), append([]string{}, want...))
}

func ids(sessions []herald.Session) []string {
	all := make([]string, 0, len(sessions))
	for _, session := range sessions {
		all = append(all, session.ID)
	}
	return all
}

// entries walks all entries of a lease, and joins their parts.
func (s *registrySuite) entries(r herald.Registry, lease herald.Lease) map[string]herald.Entry {
	s.Helper()
	all := make(map[string]herald.Entry)
	for cursor := ""; ; {
		page, next, err := r.Entries(s.ctx, lease, cursor)
		s.check(err)
		for _, e := range page {
			known := all[e.Session.ID]
			if e.UserTopic == "" {
				e.UserTopic = known.UserTopic
			}
			e.Topics = slices.Concat(e.Topics, known.Topics)
			slices.Sort(e.Topics)
			e.Topics = slices.Compact(e.Topics)
			all[e.Session.ID] = e
		}
		if cursor = next; cursor == "" {
			return all
		}
	}
}

// offline takes all users that are due.
func (s *registrySuite) offline(r herald.Registry, delay time.Duration) []string {
	s.Helper()
	all := []string{}
	for {
		users, err := r.Offline(s.ctx, delay)
		s.check(err)
		if len(users) == 0 {
			slices.Sort(all)
			return all
		}
		all = append(all, users...)
	}
}
