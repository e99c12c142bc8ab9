package store

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// String returns everything that the log has, for tests that compare logs. It leaves
// out what counts for nothing.
func (l *Log) String() string {
	var b strings.Builder
	if t := l.table; t == nil {
		b.WriteString("no table\n")
	} else {
		fmt.Fprintf(&b, "epoch %x on %s, parents %x, counter %d, horizon %d\n", uint64(t.epoch), t.server, t.parents, t.counter, t.horizon)
		fmt.Fprintf(&b, "agreed %d: %d ms, %d bytes\n", t.agreed.Version, t.agreed.Age, t.agreed.Bytes)
		for _, s := range t.spans {
			fmt.Fprintf(&b, "span %d began %d bytes %d\n", s.n, s.began, s.bytes)
		}
		for _, topic := range slices.Sorted(maps.Keys(t.last)) {
			if last := t.last[topic]; last > t.horizon {
				fmt.Fprintf(&b, "topic %q at %d, forgotten up to %d\n", topic, last, t.forgot[topic])
			}
		}
	}
	for _, n := range l.Segments() {
		fmt.Fprintf(&b, "segment %d\n", n)
		for _, e := range l.segments[n] {
			fmt.Fprintf(&b, "entry %d born %x links %v body %q\n", e.Offset, uint64(e.Born), e.Links, e.Body)
		}
	}
	return b.String()
}
