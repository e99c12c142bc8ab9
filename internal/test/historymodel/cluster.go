package historymodel

import (
	"fmt"
	"slices"

	"github.com/heraldgo/herald/internal/history"
	"github.com/heraldgo/herald/internal/history/store"
)

// The segment and the age of the logs are small, so that short runs reach them.
const (
	segment = 4
	age     = 1_000
)

// A server is one Redis.
type server struct {
	log   *store.Log
	runID string // new with each start
	repl  string // master_replid: new when the server starts or becomes a master
	from  string // the repl of the master that the partition was moved from, until that changes
	dead  bool
	stale bool // it was replaced as master, but does not know
	gone  bool // the partition has moved away: it answers MOVED
}

// A cluster is the servers of one partition: a master and a replica, which change
// places. A master that was replaced may live on for a while, with nodes connected
// to it.
type cluster struct {
	w       *world
	servers [2]*server
	master  int
	disk    *store.Log // what the master saved last
	moving  bool       // the slot migrates: scripts that need missing keys are refused
	full    bool       // out of memory: scripts that write are refused, but not PUBLISH
	erased  map[erasure]history.Offset
	broken  bool // a chain may be broken, because a segment was lost or a topic was forgotten
}

// An erasure says that the messages of a topic in an epoch were forgotten.
type erasure struct {
	epoch history.Epoch
	topic string
}

func newCluster(w *world) *cluster {
	c := &cluster{w: w, disk: store.New(segment), erased: make(map[erasure]history.Offset)}
	for i := range c.servers {
		c.servers[i] = &server{log: store.New(segment)}
		c.start(c.servers[i])
	}
	return c
}

func (c *cluster) serving() *server { return c.servers[c.master] }
func (c *cluster) replica() *server { return c.servers[1-c.master] }

func (c *cluster) start(s *server) {
	s.runID, s.repl, s.from = c.w.name("run"), c.w.name("repl"), ""
	s.dead, s.stale, s.gone = false, false, false
}

// answers reports whether a server runs scripts for the partition now.
func (c *cluster) answers(s *server) bool {
	return !s.dead && !c.moving && (s == c.serving() || s.stale)
}

// caller returns the arguments of a script that a node runs on s, and what it finds
// there.
func (w *world) caller(s *server, known history.Point) store.Caller {
	w.epochs++
	// Some nodes do not know the latest agreement.
	agreed := w.agreed[max(0, len(w.agreed)-1-w.epochs%2)]
	return store.Caller{Server: s.repl, From: s.from, Now: w.now, Known: known, Fresh: history.Epoch(w.epochs), Agreed: agreed}
}

// keeps reports whether the log, as it is now, still has the entry at a point, and
// all chains that lead there.
func (c *cluster) keeps(at history.Point) bool {
	if c.broken {
		return false
	}
	s := c.serving()
	log, caller := s.log.Clone(), c.w.caller(s, history.Point{})
	entries, ok := log.Read(caller, log.Fence(caller).Epoch, []history.Offset{at.Offset})
	return ok && len(entries) == 1 && entries[0].Born == at.Epoch
}

// agree makes the nodes agree on how much is kept.
func (w *world) agree(bytes int) {
	w.agreed = append(w.agreed, store.Agreement{Version: uint64(len(w.agreed) + 1), Age: age, Bytes: bytes})
}

// replicate makes the replica catch up. Until then it has a prefix of the log.
func (c *cluster) replicate() {
	if r := c.replica(); !r.dead && !r.stale {
		r.log = c.serving().log.Clone()
		r.repl, r.from, r.gone = c.serving().repl, "", false
	}
}

// restart restarts the master with its data, with the data that it had saved, or
// with none.
func (c *cluster) restart(how int) {
	s := c.serving()
	switch how % 3 {
	case 0:
		c.w.hit(restartWithData)
	case 1:
		s.log = c.disk.Clone()
		c.w.hit(restartFromDisk)
	case 2:
		s.log = store.New(segment)
		c.w.hit(restartEmpty)
	}
	c.start(s)
	c.w.cutLinks(s)
}

// failover promotes the replica, with whatever data it has. The old master dies, or
// lingers.
func (c *cluster) failover(linger bool) {
	old, next := c.serving(), c.replica()
	if next.dead || next.stale || next.gone || c.moving {
		return
	}
	old.dead, old.stale = !linger, linger
	if linger {
		c.w.hit(split)
	} else {
		c.w.cutLinks(old)
		c.w.hit(failover)
	}
	c.master = 1 - c.master
	next.repl, next.from = c.w.name("repl"), ""
}

// demote makes the old master a replica. Data that only it had is lost.
func (c *cluster) demote() {
	r := c.replica()
	if r.dead {
		c.start(r)
	}
	r.stale, r.gone = false, false
	c.w.cutLinks(r)
	c.replicate()
}

// back fails over to the replica and back before anybody has noticed.
func (c *cluster) back() {
	if r := c.replica(); r.dead || r.stale || r.gone || c.moving {
		return
	}
	c.failover(true)
	c.demote()
	c.failover(true)
	c.demote()
	c.w.hit(thereAndBack)
}

// migrate begins to move the slot, or aborts or completes that.
func (c *cluster) migrate(how int) {
	switch {
	case c.replica().stale:
	case !c.moving:
		c.moving = true
	case how%2 == 0:
		c.moving = false
		c.w.hit(migrationAborted)
	default:
		c.moving = false
		old, next := c.serving(), c.replica()
		next.log = old.log
		c.start(next) // a master in its own right
		next.from = old.repl
		old.log, old.gone = store.New(segment), true
		c.master = 1 - c.master
		c.w.cutLinks(old)
		c.w.cutLinks(next)
		c.w.hit(migrated)
	}
}

// evict removes a key, or all of them.
func (c *cluster) evict(which int) {
	log := c.serving().log
	segments := log.Segments()
	switch {
	case which%4 == 0:
		log.LoseTable()
		c.w.hit(tableEvicted)
	case which%4 == 1:
		log.LoseTable()
		for _, n := range segments {
			log.LoseSegment(n)
		}
		c.w.hit(flushed)
	case len(segments) > 0:
		log.LoseSegment(segments[which/4%len(segments)])
		c.broken = true
		c.w.hit(segmentEvicted)
	}
}

// trim removes what is beyond the retention.
func (c *cluster) trim() {
	s := c.serving()
	if !c.answers(s) {
		return
	}
	for {
		n, ok := s.log.Due(c.w.now)
		if !ok || !s.log.Trim(c.w.caller(s, history.Point{}), n) {
			return
		}
		c.w.hit(trimmed)
	}
}

// erase forgets what is kept for a topic.
func (c *cluster) erase(topic string) {
	if s := c.serving(); c.answers(s) {
		end := s.log.Fence(c.w.caller(s, history.Point{}))
		s.log.Forget(c.w.caller(s, history.Point{}), []string{topic})
		c.erased[erasure{end.Epoch, topic}] = end.Offset
		c.broken = true
		c.w.hit(forgotten)
	}
}

// serves checks that a survey lists nothing that was forgotten.
func (c *cluster) serves(on *server, topics []string, s history.Survey) {
	entries, _ := on.log.Read(c.w.caller(on, history.Point{}), s.End.Epoch, s.Offsets)
	for _, e := range entries {
		if !slices.ContainsFunc(e.Links, func(l history.Link) bool {
			return slices.Contains(topics, l.Topic) && e.Offset > c.erased[erasure{s.End.Epoch, l.Topic}]
		}) {
			c.w.fail("%d of epoch %d is found, and was forgotten", e.Offset, s.End.Epoch)
		}
	}
}

// renew begins a new epoch, as when the last node starts to append.
func (c *cluster) renew() {
	if s := c.serving(); c.answers(s) {
		end := s.log.Fence(c.w.caller(s, history.Point{}))
		if s.log.Renew(c.w.caller(s, history.Point{}), end.Epoch).Epoch == end.Epoch {
			c.w.fail("no epoch has begun")
		}
		c.w.hit(renewed)
	}
}

// name returns a name that is not in use.
func (w *world) name(kind string) string {
	w.names++
	return fmt.Sprint(kind, w.names)
}
