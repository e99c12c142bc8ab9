package store

// An Agreement is how much the nodes of a cluster have agreed to keep, and its
// Version. Both the table and each node have it, because the table may be lost: the
// later one counts. A node that has just started knows of no agreement, so its
// Version is 0, and what it wants becomes the next one.
type Agreement struct {
	Version uint64
	Age     int64
	Bytes   int
}

// Wanted is the Agreement that a node brings when it has just started.
func (l Limits) Wanted() Agreement { return Agreement{Age: l.Age, Bytes: l.Bytes} }

// with returns the Agreement that counts once a node has brought b.
func (a Agreement) with(b Agreement) Agreement {
	if b.Version == 0 {
		if a.Age == b.Age && a.Bytes == b.Bytes {
			return a
		}
		b.Version = a.Version + 1
	}
	if b.Version > a.Version {
		return b
	}
	return a
}

// Agreed returns how much the log keeps, if there is a table.
func (l *Log) Agreed() (a Agreement, ok bool) {
	if l.table == nil {
		return a, false
	}
	return l.table.agreed, true
}
