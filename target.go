package herald

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

type targetKind uint8

const (
	targetUser targetKind = iota + 1
	targetGroup
	targetConnection
	targetEveryone
)

func (k targetKind) String() string {
	return [...]string{targetUser: "user", targetGroup: "group", targetConnection: "connection", targetEveryone: "everyone"}[k]
}

// A Target says whom a call is about. The zero Target is refused. Targets
// are values: Except and the like return a narrower copy.
type Target struct {
	kind        targetKind
	ids         []string
	except      []string // connection ids
	exceptUsers []string
	platforms   []string
	on          bool // On was called
}

// User is every connection of these users. Without ids it is no connection.
func User(ids ...string) Target { return Target{kind: targetUser, ids: slices.Clone(ids)} }

// Group is every connection that belongs to one of these groups. Without names
// it is no connection.
func Group(names ...string) Target { return Target{kind: targetGroup, ids: slices.Clone(names)} }

// Connection is the connections with these ids, on whichever nodes. An id may be that
// of Conn.ID, or the longer one that a client is told. A service that gets it from
// the client must check whose it is: herald does not.
func Connection(ids ...string) Target {
	return Target{kind: targetConnection, ids: slices.Clone(unsigned(ids))}
}

// Everyone is every connection there is.
func Everyone() Target { return Target{kind: targetEveryone} }

// Except leaves out the connections with these ids, which may be as Connection takes
// them.
func (t Target) Except(connections ...string) Target {
	t.except = slices.Concat(t.except, unsigned(connections))
	return t
}

// unsigned returns ids without the signatures that clients get with them: see
// keeping.sign. It changes no id in place.
func unsigned(ids []string) []string {
	plain := ids
	for i, id := range ids {
		counter := strings.LastIndexByte(id, '.') + 1
		if n := strings.IndexByte(id[counter:], '~'); n >= 0 {
			if &plain[0] == &ids[0] {
				plain = slices.Clone(ids)
			}
			plain[i] = id[:counter+n]
		}
	}
	return plain
}

// ExceptUser leaves out all connections of these users.
func (t Target) ExceptUser(ids ...string) Target {
	t.exceptUsers = slices.Concat(t.exceptUsers, ids)
	return t
}

// On leaves only the connections whose Identity.Platform, as Authenticate set it,
// is one of these platforms; "" stands for those without a platform. Without
// arguments it leaves nobody.
func (t Target) On(platforms ...string) Target {
	t.platforms = slices.Concat(t.platforms, platforms)
	t.on = true
	return t
}

// nobody reports whether the target has no connections, whoever is online.
func (t *Target) nobody() bool {
	return t.kind != targetEveryone && len(t.ids) == 0 || t.on && len(t.platforms) == 0
}

// topics returns the topics of a target that comes from User or Group.
func (t Target) topics() []string {
	topics := make([]string, len(t.ids))
	for i, id := range t.ids {
		if topics[i] = userTopic(id); t.kind == targetGroup {
			topics[i] = groupTopic(id)
		}
	}
	return topics
}

// check returns an error if the target cannot be used.
func (t *Target) check() error {
	if t.kind == 0 {
		return fmt.Errorf("%w: target: must come from User, Group, Connection or Everyone", ErrInvalid)
	}
	if t.kind != targetConnection && slices.Contains(t.ids, "") {
		what := "User: an id"
		if t.kind == targetGroup {
			what = "Group: a name"
		}
		return fmt.Errorf("%w: target: %s must not be empty", ErrInvalid, what)
	}
	connections := t.except
	if t.kind == targetConnection {
		connections = slices.Concat(connections, t.ids)
	}
	for _, id := range connections {
		if node, _ := cutID(id); node == "" {
			return fmt.Errorf("%w: target: connection id %q: must be <node>.<counter>", ErrInvalid, id)
		}
	}
	if slices.Contains(t.exceptUsers, "") {
		return fmt.Errorf("%w: target: ExceptUser: an id must not be empty", ErrInvalid)
	}
	return nil
}

// checkNames returns an error if one call may not have the ids, the groups and the
// filter.
func (t *Target) checkNames(ids, groups []string) error {
	return checkNames(t.except, t.exceptUsers, t.platforms, ids, groups)
}

// maxListed and maxListedBytes are how many names the lists of one envelope have at
// most, and how many bytes these take.
const (
	maxListed      = 10_000
	maxListedBytes = 1 << 20
)

// checkNames returns an error if one envelope may not list that many names.
func checkNames(lists ...[]string) error {
	count, bytes := 0, 0
	for _, list := range lists {
		count += len(list)
		for _, name := range list {
			bytes += len(name)
		}
	}
	switch {
	case count > maxListed:
		return fmt.Errorf("%w: target: %d ids and names, with those of Except, ExceptUser, On and the groups: must be at most %d in one call", ErrInvalid, count, maxListed)
	case bytes > maxListedBytes:
		return fmt.Errorf("%w: target: ids and names of %d bytes, with those of Except, ExceptUser, On and the groups: must be at most %d in one call", ErrInvalid, bytes, maxListedBytes)
	}
	return nil
}

// checkSend returns an error if a message may not go to the target. The users and groups
// of a message need no bound, because its packets do not list them.
func (t *Target) checkSend() error {
	switch {
	case t.kind == targetConnection:
		return t.checkNames(t.ids, nil)
	case len(t.except)+len(t.exceptUsers)+len(t.platforms) == 0:
		return nil
	}
	return t.checkNames(nil, nil)
}

// A filter narrows a target, wherever its Conns are.
type filter struct {
	except      []string
	exceptUsers []string
	platforms   []string
	on          bool
}

func (t *Target) filter() filter {
	return filter{t.except, t.exceptUsers, t.platforms, t.on}
}

func (f *filter) empty() bool { return len(f.except) == 0 && len(f.exceptUsers) == 0 && !f.on }

// passesSession reports whether the Session is not filtered out.
func (f filter) passesSession(s Session) bool {
	return !(f.on && !slices.Contains(f.platforms, s.Platform) ||
		slices.Contains(f.exceptUsers, s.User) || slices.Contains(f.except, s.ID))
}

// A sieve is a filter for the Conns of one node. It compares their counters and
// not their ids, which would have to be made for each Conn.
type sieve struct {
	*filter           // nil: it lets all through
	counters []uint64 // Conns of this node that are left out, in order
}

// newSieve makes a filter ready for the Conns of the node, and puts its lists in order.
func newSieve(node string, f *filter) (s sieve) {
	if f.empty() {
		return s
	}
	for _, id := range f.except {
		if counter, ok := counterOf(node, id); ok {
			s.counters = append(s.counters, counter)
		}
	}
	slices.Sort(s.counters)
	slices.Sort(f.exceptUsers)
	slices.Sort(f.platforms)
	if len(s.counters) > 0 || len(f.exceptUsers) > 0 || f.on {
		s.filter = f
	}
	return s
}

// passes reports whether the Conn is not filtered out.
func (s *sieve) passes(c *Conn) bool {
	if s.filter == nil {
		return true
	}
	if s.on && !contains(s.platforms, c.identity.Platform) || contains(s.exceptUsers, c.identity.User) {
		return false
	}
	_, out := slices.BinarySearch(s.counters, c.counter)
	return !out
}

// contains reports whether a list in order has the name.
func contains(list []string, name string) bool {
	if len(list) == 0 {
		return false
	}
	_, found := slices.BinarySearch(list, name)
	return found
}

// cutID cuts a connection's id into its node and its counter. It returns "" if
// the id is not one.
func cutID(id string) (node string, counter uint64) {
	i := strings.LastIndexByte(id, '.')
	if i <= 0 || i > maxNodeID {
		return "", 0
	}
	counter, err := strconv.ParseUint(id[i+1:], 10, 64)
	if err != nil || id[i+1] == '0' && len(id) > i+2 { // each has one spelling
		return "", 0
	}
	return id[:i], counter
}

// counterOf returns the counter in a connection's id, if it is of the node.
func counterOf(node, id string) (counter uint64, ok bool) {
	of, counter := cutID(id)
	return counter, of == node
}

// withID returns the Conn of this node that has the id, or nil.
func (x *index) withID(node, id string) *Conn {
	if counter, ok := counterOf(node, id); ok {
		return x.get(counter)
	}
	return nil
}
