package herald

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/heraldgo/herald/internal/clock"
	"github.com/heraldgo/herald/internal/places"
)

// A Session is what the Registry knows of a Conn.
type Session struct {
	ID         string            // the Conn's: <node>.<counter>
	User       string            // any bytes
	Device     string            // as Authenticate gave it; may be empty
	Platform   string            // as Authenticate gave it; may be empty
	Node       string            // the id of the Node that holds the Conn
	RemoteAddr string            // the HTTP request's
	Since      time.Time         // when it was registered, by the Registry's clock, in microseconds
	Meta       map[string]string // as Authenticate gave it
}

// An Entry places one Session under topics.
type Entry struct {
	Session Session // what is placed

	// UserTopic is the topic of the Session's user. For it alone the Registry
	// keeps presence: which Sessions are older, and whether the user is online.
	// If it is empty nothing changes for the user.
	UserTopic string

	// Topics are further topics, the groups, of the Session.
	Topics []string

	// Older is how many of the user's older Sessions Add returns at most.
	// The more there are, the more they cost Redis.
	Older int
}

// topics returns all topics of the Entry, in a slice of its own.
func (e Entry) topics() []string {
	topics := slices.Clone(e.Topics)
	if e.UserTopic != "" {
		topics = append(topics, e.UserTopic)
	}
	return topics
}

// places returns where the Entry lies, the user's topic first.
func (e Entry) places() []places.Place { return places.Of(e.Session.ID, e.UserTopic, e.Topics) }

// entriesAt returns the entries that lie at all places, which are in the order of
// [places.Sort]. session returns the Session at one of them.
func entriesAt(all []places.Place, session func(i int) Session) (entries []Entry) {
	from := 0
	for i, p := range all {
		if next := i + 1; next == len(all) || all[next].ID != p.ID {
			e := Entry{Session: session(from)}
			e.UserTopic, e.Topics = places.Topics(all[from:next])
			entries = append(entries, e)
			from = next
		}
	}
	return entries
}

// lostEntries returns the entries that have lost places, each with the topics of these
// places. lost[i] has those of entries[i].
func lostEntries(entries []Entry, lost [][]places.Place) (missing []Entry) {
	for i, e := range entries {
		if len(lost[i]) > 0 {
			m := Entry{Session: cloneSession(e.Session)}
			m.UserTopic, m.Topics = places.Topics(lost[i])
			missing = append(missing, m)
		}
	}
	return missing
}

// cloneSession returns a copy that shares nothing with s.
func cloneSession(s Session) Session {
	s.Meta = maps.Clone(s.Meta)
	return s
}

// compareSessions orders by Since, then by id.
func compareSessions(a, b Session) int {
	return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.ID, b.ID))
}

// compareNodes orders by id, then by generation.
func compareNodes(a, b Node) int {
	return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.Generation, b.Generation))
}

// Added is what [Registry.Add] says of one Entry with a UserTopic.
type Added struct {
	Since      time.Time // the Session's
	Older      []Session // the user's other live Sessions with an earlier Since, oldest first
	OlderTotal int       // how many there are, if that is more than were asked for; else the length of Older
	Online     bool      // the user had no Session before, and was not about to go offline
}

// A Lease is a node's right to have its entries believed.
type Lease struct {
	Node       string // its id
	Generation int64  // above 0
}

// A Node is one process's Hub as the Registry lists it.
type Node struct {
	ID         string        // new with each start
	Generation int64         // its Lease's
	Conns      int           // connections, when it last renewed its Lease
	Version    int           // the newest envelope it understands
	Renewed    time.Time     // when it last renewed its Lease, by the Registry's clock
	TTL        time.Duration // how long the Lease lasts from Renewed on
	Alive      bool          // the Lease has not run out, and nobody is sweeping it
	Err        error         // why the Registry's record of this node cannot be understood; all but ID is zero then
}

// Lease returns the node's present lease.
func (n Node) Lease() Lease { return Lease{n.ID, n.Generation} }

// A Registry answers, on any node, who is online, with which connections,
// and where. It may be shared by the Hubs of a process. A Registry keeps the
// promises numbered here; heraldtest.TestRegistry tries to break each.
//
//  1. Add places each Entry under all of its topics in one step; if a Registry
//     needs several, as on a Redis Cluster, its documentation says so. It needs a
//     lease that is not lost; otherwise nothing is added and the error is
//     ErrLeaseLost. Adding an Entry again is no error: it replaces the old one.
//  2. Since: a Session whose Since is zero gets the Registry's time, later
//     than that of every Session under its UserTopic. A Since that is set
//     is kept. A Session that is there already keeps the one it has. The
//     Session's Node becomes the lease's.
//  3. Add returns one Added for each Entry, in order. Its Older has the user's
//     older Sessions on live nodes, at most Entry.Older of them, the oldest
//     first. Online is true if the user never had a Session, or if the last
//     one had gone and Offline has reported it. If an Entry is added again
//     under the same lease, Online is what it was the first time, so that an
//     answer that was lost can be asked for again.
//  4. Remove takes the Sessions with exactly these ids away from their
//     topics, and touches no other. A Session that is not there is no error.
//     Remove needs no lease.
//  5. Sessions lists the Sessions of live nodes for each of the topics, oldest
//     first. It sees what was added before the call, from any node. Online says
//     for each topic whether there is one. Both need a lease of the caller's node
//     that has not run out; otherwise the error is ErrLeaseLost. This is because
//     a Registry that has lost one lease may have lost others, and their Sessions
//     must not look as if they had gone. The zero Lease is not checked.
//  6. KeepAlive with Generation 0 takes a new Lease, with a generation that
//     the node never had. With another Generation it renews that one only, and
//     returns ErrLeaseLost if that lease was swept, released, or forgotten.
//     A lease that has only run out is renewed.
//  7. Nodes lists each node once for each of its leases that the Registry has:
//     the present one, and old ones that are not swept yet. Alive is false for a
//     dead node. If the record of a node cannot be understood, for instance
//     because it is of a later version, the node is listed with Err. A dead
//     node's Sessions are never listed, even before they are swept. Nodes also
//     returns the Registry's time, which is not before any Since that was given.
//  8. Sweep does nothing to a lease that has not run out. Otherwise it marks
//     the lease as lost in one step, removes the entries of that generation
//     only, then forgets the lease. Any node may finish a sweep that another one
//     began. Entries that the node added under a newer generation stay.
//  9. Offline takes, in one step, users whose last Session went at least delay
//     ago and who have not come back. Each user is returned to one caller only.
//     Remove and Sweep make a user go; Add brings one back. A call need not
//     return all such users: only an answer without users says that there are
//     none.
//  10. Entries walks the entries that a lease's node has under that
//     generation. Call it with cursor "" first, and then with the cursor that it
//     returned, until that is "" again. An entry that is there during the whole
//     walk is returned at least once; one of many topics may come in parts.
//  11. Release forgets a lease whose entries have been removed. If the lease has
//     entries left, it is lost instead and remains to be swept, even if it had
//     been forgotten. Releasing twice is no error.
//  12. Names may have any bytes, and come back unchanged. Nothing of another
//     prefix or database is seen.
//  13. Time: Since is the Registry's own time, never that of the callers. A
//     lease has run out if it has not been renewed for its TTL. The process that
//     looks measures this by its own monotonic clock. Only when it sees a lease
//     for the first time does it go by the Registry's clock. So if the
//     Registry's clock steps, forward or back, it neither ends a lease that is
//     being renewed nor keeps one that is not.
//  14. Concurrency: all methods may be called at the same time. They return
//     when ctx is done, with its error in the chain. After an error it is
//     unknown how much has been done; doing it again is safe.
//  15. Ownership: slices and maps that are passed in are not kept, and those
//     that are returned are the caller's.
//  16. Check compares entries that were added under the lease with what the
//     Registry still has. It returns those that lack something, each with the
//     topics that it lacks. If the Registry has lost what it needs to sweep the
//     lease, the error is ErrLeaseLost, and the node has to take a new one.
//
// A Registry does not log.
type Registry interface {
	Add(ctx context.Context, lease Lease, entries ...Entry) ([]Added, error)
	Remove(ctx context.Context, lease Lease, entries ...Entry) error
	Sessions(ctx context.Context, lease Lease, topics ...string) ([][]Session, error)
	Online(ctx context.Context, lease Lease, topics ...string) ([]bool, error)
	KeepAlive(ctx context.Context, node Node, ttl time.Duration) (generation int64, err error)
	Release(ctx context.Context, lease Lease) error
	Nodes(ctx context.Context) (nodes []Node, now time.Time, err error)
	Sweep(ctx context.Context, lease Lease) error
	Offline(ctx context.Context, delay time.Duration) (users []string, err error)
	Entries(ctx context.Context, lease Lease, cursor string) (entries []Entry, next string, err error)
	Check(ctx context.Context, lease Lease, entries ...Entry) (missing []Entry, err error)
}

// A Change is one Session that has come to a watched topic, or left it.
type Change struct {
	Topic   string
	Number  int64   // one more than that of the topic's change before it
	Session Session // the one that has come; of one that has left, only the ID
	Left    bool
}

// Watched is what [WatchRegistry.Watch] says of one topic.
type Watched struct {
	Number   int64     // of the topic's last change
	Sessions []Session // all changes up to it are in them, and none after it
}

// A WatchRegistry is a Registry whose topics can be watched, as [Hub.Watch] needs
// it. It keeps these promises, too:
//
//  17. Watch marks each topic as watched for ttl, or for a day if that is less. A
//     mark that lasts longer stays. In the same step Watch lists the topic's Sessions,
//     as Sessions does, and returns the number of its last change. The lease is checked as
//     in Sessions.
//  18. While a topic is watched, each Session that Add puts under it, or that Remove
//     or Sweep takes away, is a change with a number: one more than that of the
//     change before, whichever handle makes it. Adding what is there under another
//     lease is a change too, but adding it again under the same lease is none. If a
//     mark is made anew because it has run out or was lost, its numbers are above
//     those that were given before, unless the Registry's clock has stepped back.
//  19. Changes returns each change that a call on this handle has made, once, and
//     for each topic in the order of the numbers. The changes of a call that has
//     returned are among them; if it returned early because its ctx was done, they
//     come later. A handle keeps a thousand changes at least until they are taken.
//     What is above that may be lost, and so may the changes of a call whose answer
//     is lost.
//  20. What lies under topics that nobody watches makes no changes.
type WatchRegistry interface {
	Registry
	Watch(ctx context.Context, lease Lease, ttl time.Duration, topics ...string) ([]Watched, error)
	Changes() []Change
}

// A countedRegistry counts and times the calls of a Registry.
type countedRegistry struct {
	reg   Registry
	stats *counters
}

// watchable returns an error if the Registry's topics cannot be watched.
func (r *countedRegistry) watchable() error {
	if _, ok := r.reg.(WatchRegistry); !ok {
		return fmt.Errorf("%w: Config.Registry: a %T cannot be watched: it is no WatchRegistry", ErrInvalid, r.reg)
	}
	return nil
}

// Watch needs a Registry that is watchable.
func (r *countedRegistry) Watch(ctx context.Context, lease Lease, ttl time.Duration, topics ...string) (watched []Watched, err error) {
	defer r.count(clock.Now(), &err)
	return r.reg.(WatchRegistry).Watch(ctx, lease, ttl, topics...)
}

// Changes returns the changes of a Registry that is watchable, or none.
func (r *countedRegistry) Changes() []Change {
	if w, ok := r.reg.(WatchRegistry); ok {
		return w.Changes()
	}
	return nil
}

func (r *countedRegistry) count(began int64, err *error) {
	took := clock.Now() - began
	r.stats.registryCalls.Observe(time.Duration(took))
	r.stats.registryRoundTrip.Store(took)
	if *err != nil {
		r.stats.registryErrors.Add(1)
	}
}

func (r *countedRegistry) Add(ctx context.Context, lease Lease, entries ...Entry) (added []Added, err error) {
	defer r.count(clock.Now(), &err)
	return r.reg.Add(ctx, lease, entries...)
}

func (r *countedRegistry) Remove(ctx context.Context, lease Lease, entries ...Entry) (err error) {
	defer r.count(clock.Now(), &err)
	return r.reg.Remove(ctx, lease, entries...)
}

func (r *countedRegistry) Sessions(ctx context.Context, lease Lease, topics ...string) (sessions [][]Session, err error) {
	defer r.count(clock.Now(), &err)
	return r.reg.Sessions(ctx, lease, topics...)
}

func (r *countedRegistry) Online(ctx context.Context, lease Lease, topics ...string) (online []bool, err error) {
	defer r.count(clock.Now(), &err)
	return r.reg.Online(ctx, lease, topics...)
}

func (r *countedRegistry) KeepAlive(ctx context.Context, node Node, ttl time.Duration) (generation int64, err error) {
	defer r.count(clock.Now(), &err)
	return r.reg.KeepAlive(ctx, node, ttl)
}

func (r *countedRegistry) Release(ctx context.Context, lease Lease) (err error) {
	defer r.count(clock.Now(), &err)
	return r.reg.Release(ctx, lease)
}

func (r *countedRegistry) Nodes(ctx context.Context) (nodes []Node, now time.Time, err error) {
	defer r.count(clock.Now(), &err)
	return r.reg.Nodes(ctx)
}

func (r *countedRegistry) Sweep(ctx context.Context, lease Lease) (err error) {
	defer r.count(clock.Now(), &err)
	return r.reg.Sweep(ctx, lease)
}

func (r *countedRegistry) Offline(ctx context.Context, delay time.Duration) (users []string, err error) {
	defer r.count(clock.Now(), &err)
	return r.reg.Offline(ctx, delay)
}

func (r *countedRegistry) Entries(ctx context.Context, lease Lease, cursor string) (entries []Entry, next string, err error) {
	defer r.count(clock.Now(), &err)
	return r.reg.Entries(ctx, lease, cursor)
}

func (r *countedRegistry) Check(ctx context.Context, lease Lease, entries ...Entry) (missing []Entry, err error) {
	defer r.count(clock.Now(), &err)
	return r.reg.Check(ctx, lease, entries...)
}
