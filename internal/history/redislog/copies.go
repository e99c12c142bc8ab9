package redislog

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/heraldgo/herald/internal/history"
)

const (
	scanGain   = 8               // how many entries Redis scans in the time in which a script looks at one
	leastAlone = 32              // entries of a segment that are looked at one by one before it is scanned
	copiesFor  = 5 * time.Second // how long a copy is kept after its last use
)

// A Budget bounds the memory of the copies of several Logs.
type Budget struct {
	most int64
	used atomic.Int64
}

// NewBudget returns a Budget of this many bytes.
func NewBudget(bytes int) *Budget { return &Budget{most: int64(bytes)} }

// take takes bytes of the budget, if there are so many.
func (b *Budget) take(bytes int) bool {
	if b.used.Add(int64(bytes)) <= b.most {
		return true
	}
	b.used.Add(int64(-bytes))
	return false
}

// copies are a node's copies of segments. If many clients come back at once, scripts walk
// their chains until looking at entries one by one has cost Redis as much as a scan of the
// segment. Then the segment is scanned, and the node walks on by itself. So Redis does
// about twice what would have been enough, at most.
//
// The copies belong to one epoch, and have only entries that were born in it: these never
// change. They may have entries that the log has removed or lost meanwhile. So a survey
// always asks the table first where its chains begin and end.
type copies struct {
	size   history.Offset // offsets of a segment
	least  int            // see leastAlone
	budget *Budget        // nil: there are no copies

	mu       sync.Mutex
	epoch    history.Epoch
	segments map[uint64]*segment
	scanning bool // one segment at a time
}

// A segment has a copy, or may get one. copies.mu guards all but its number.
type segment struct {
	number  uint64
	through history.Offset  // the copy has what the segment had up to here
	entries []history.Entry // rising
	bytes   int             // that the entries take of the budget
	alone   int             // entries behind the copy that were looked at one by one
	last    history.Offset  // the highest one of these
	unfit   bool            // there is no room for a copy, or the entries were born in another epoch
	used    time.Time
}

// enter forgets what belongs to another epoch. The caller holds mu.
func (c *copies) enter(epoch history.Epoch) {
	if c.epoch != epoch {
		for _, s := range c.segments {
			c.empty(s)
		}
		c.epoch, c.segments = epoch, make(map[uint64]*segment)
	}
}

func (c *copies) number(at history.Offset) uint64 { return uint64((at - 1) / c.size) }

// looked notes the offsets at which a script has looked.
func (c *copies) looked(epoch history.Epoch, offsets []history.Offset) {
	if c.budget == nil {
		return
	}
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.enter(epoch)
	for _, at := range offsets {
		n := c.number(at)
		s := c.segments[n]
		if s == nil {
			s = &segment{number: n}
			c.empty(s)
			c.segments[n] = s
		}
		if s.used = now; at > s.through {
			s.alone++
			s.last = max(s.last, at)
		}
	}
}

// due reports whether a segment between two offsets should be scanned. The log ends at
// end.
func (c *copies) due(end history.Point, top, stop history.Offset) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.next(end, top, stop) != nil
}

// next returns a segment that is due, or nil. The caller holds mu.
func (c *copies) next(end history.Point, top, stop history.Offset) *segment {
	if c.epoch != end.Epoch || c.scanning {
		return nil
	}
	for n, s := range c.segments {
		if s.unfit || s.alone < c.least || n < uint64(stop/c.size) || n > c.number(top) {
			continue
		}
		last := s.last // a segment that is not the last one may end early
		if n == c.number(end.Offset) {
			last = end.Offset
		}
		if s.alone*scanGain >= int(last-s.through) {
			return s
		}
	}
	return nil
}

// begin returns a segment that is due, and behind which offset it is to be scanned, or
// nil. The caller scans it, and then calls end.
func (c *copies) begin(end history.Point, top, stop history.Offset) (s *segment, after history.Offset) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s = c.next(end, top, stop); s == nil {
		return nil, 0
	}
	c.scanning = true
	s.alone = 0
	return s, s.through
}

func (c *copies) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.scanning = false
}

// add adds what was scanned next to the segment's copy. It returns false if there is no use
// for more.
func (c *copies) add(epoch history.Epoch, s *segment, entries []history.Entry) bool {
	bytes := 0
	for _, e := range entries {
		bytes += memory(e)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.epoch != epoch || c.segments[s.number] != s {
		return false
	}
	foreign := slices.ContainsFunc(entries, func(e history.Entry) bool { return e.Born != epoch })
	if foreign || !c.makeRoom(s, bytes) { // only scripts know whether a foreign one counts
		c.empty(s)
		s.unfit = true
		return false
	}
	s.bytes += bytes
	if s.entries, s.used = append(s.entries, entries...), time.Now(); len(entries) > 0 {
		s.through = entries[len(entries)-1].Offset
	}
	return true
}

// memory returns how many bytes an entry takes.
func memory(e history.Entry) int {
	const fixed, link = 192, 48
	bytes := fixed + len(e.Body) + link*len(e.Links)
	for _, l := range e.Links {
		bytes += len(l.Topic)
	}
	return bytes
}

// makeRoom takes bytes of the budget for a segment. It forgets other copies, the one that
// was not used for longest first, until there are so many. The caller holds mu.
func (c *copies) makeRoom(s *segment, bytes int) bool {
	if int64(s.bytes+bytes) > c.budget.most {
		return false
	}
	for !c.budget.take(bytes) {
		var oldest *segment
		for _, other := range c.segments {
			if other != s && other.bytes > 0 && (oldest == nil || other.used.Before(oldest.used)) {
				oldest = other
			}
		}
		if oldest == nil {
			return false
		}
		c.empty(oldest)
	}
	return true
}

// empty forgets the copy of a segment. The caller holds mu.
func (c *copies) empty(s *segment) {
	c.budget.used.Add(int64(-s.bytes))
	s.through, s.entries, s.bytes, s.alone = history.Offset(s.number)*c.size, nil, 0, 0
}

// expire forgets the segments that were not used for long.
func (c *copies) expire() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for n, s := range c.segments {
		if time.Since(s.used) >= copiesFor {
			c.empty(s)
			delete(c.segments, n)
		}
	}
}

// top returns the highest offset up to which there is a copy, between stop and at, or
// stop.
func (c *copies) top(epoch history.Epoch, at, stop history.Offset) history.Offset {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.epoch != epoch {
		return stop
	}
	for _, s := range c.segments {
		if len(s.entries) > 0 && s.through < at {
			stop = max(stop, s.through)
		}
	}
	return stop
}

// walk walks chains in the copies, always the one that is at the highest offset, and
// looks at this many entries at most. It stops early at an entry that the copies lack: only
// a script knows whether the log has it. It returns nil if that is the first one.
func (c *copies) walk(epoch history.Epoch, chains []chain, entries int) *step {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.epoch != epoch {
		return nil
	}
	s := &step{left: slices.Clone(chains), whole: true}
	for len(s.left) > 0 && len(s.found) < entries {
		at := highest(s.left)
		from := c.segments[c.number(at)]
		if from == nil {
			break
		}
		e, ok := from.entry(at)
		if !ok {
			break
		}
		s.found, s.read = append(s.found, at), append(s.read, e)
		s.left, s.moved = descend(s.left, e), true
		from.used = now
	}
	if !s.moved {
		return nil
	}
	return s
}

func highest(chains []chain) (at history.Offset) {
	for _, c := range chains {
		at = max(at, c.at)
	}
	return at
}

// descend moves the chains that are at an entry. It returns those that are not at their
// ends.
func descend(chains []chain, e history.Entry) []chain {
	left := chains[:0]
	for _, c := range chains {
		if c.at == e.Offset {
			c.at = 0
			for _, link := range e.Links {
				if link.Topic == c.topic {
					c.at = link.Prev
					break
				}
			}
		}
		if c.at > c.stop {
			left = append(left, c)
		}
	}
	return left
}

func (s *segment) entry(at history.Offset) (history.Entry, bool) {
	i, ok := slices.BinarySearchFunc(s.entries, at, func(e history.Entry, at history.Offset) int {
		return int(e.Offset) - int(at)
	})
	if !ok {
		return history.Entry{}, false
	}
	return s.entries[i], true
}
