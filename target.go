package herald

import (
	"fmt"
	"slices"
)

type targetKind uint8

const (
	targetUser targetKind = iota + 1
	targetGroup
	targetConnection
	targetEveryone
)

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

// User is every connection of these users. Without ids it is nobody.
func User(ids ...string) Target { return Target{kind: targetUser, ids: slices.Clone(ids)} }

// Group is every connection that belongs to one of these groups. Without
// names it is nobody.
func Group(names ...string) Target { return Target{kind: targetGroup, ids: slices.Clone(names)} }

// Connection is the connections with these ids, on whichever nodes.
func Connection(ids ...string) Target { return Target{kind: targetConnection, ids: slices.Clone(ids)} }

// Everyone is every connection there is.
func Everyone() Target { return Target{kind: targetEveryone} }

// Except leaves out the connections with these ids.
func (t Target) Except(connections ...string) Target {
	t.except = slices.Concat(t.except, connections)
	return t
}

// ExceptUser leaves out all connections of these users.
func (t Target) ExceptUser(ids ...string) Target {
	t.exceptUsers = slices.Concat(t.exceptUsers, ids)
	return t
}

// On leaves only the connections whose Identity has one of these platforms;
// "" is those without one. Without any it leaves nobody.
func (t Target) On(platforms ...string) Target {
	t.platforms = slices.Concat(t.platforms, platforms)
	t.on = true
	return t
}

// nobody says whether the target has no connections, whoever is online.
func (t Target) nobody() bool {
	return t.kind != targetEveryone && len(t.ids) == 0 || t.on && len(t.platforms) == 0
}

// check says whether the target can be used.
func (t Target) check() error {
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
		if nodeOf(id) == "" {
			return fmt.Errorf("%w: target: connection id %q: must be <node>.<counter>", ErrInvalid, id)
		}
	}
	if slices.Contains(t.exceptUsers, "") {
		return fmt.Errorf("%w: target: ExceptUser: an id must not be empty", ErrInvalid)
	}
	return nil
}
