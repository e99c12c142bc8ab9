package redisbus

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/heraldgo/herald/internal/errs"
	"github.com/heraldgo/herald/internal/redisconn"
)

// astray reports whether a refused command may be carried out by another node, or later
// by this one.
func astray(said redisconn.Error) bool {
	word, _, _ := strings.Cut(string(said), " ")
	switch word {
	case "MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN", "LOADING", "MASTERDOWN":
		return true
	}
	return false
}

// asks reports whether the slot is migrating and the key has left the node already.
func asks(said redisconn.Error) bool { return strings.HasPrefix(string(said), "ASK ") }

// closing reports whether Redis closes the connection after this error. Commands
// behind the refused one are not carried out, either.
func closing(said redisconn.Error) bool {
	return strings.HasPrefix(string(said), "ERR Protocol error")
}

// refusal returns the error that a caller of the Bus gets for an error reply of
// Redis.
func refusal(said redisconn.Error) error {
	if redisconn.IsRefusal(string(said)) {
		return fmt.Errorf("%w: refused by Redis: %w", errs.BusDown, said)
	}
	return fmt.Errorf("refused by Redis: %w", said)
}

// A link is one partition's share of a trunk, in one direction. It never changes to
// another trunk. What has ended it is in err.
type link struct {
	trunk *trunk
	in    *inbound      // nil if the link publishes
	dead  chan struct{} // closed when err is set

	mu  sync.Mutex
	err error // why the link is dead
}

type commandKind uint8

const (
	commandHello commandKind = iota + 1
	commandInfo              // CLUSTER INFO
	commandOwner             // any that a node refuses if it does not have the slot
	commandStill             // the same, behind packets
	commandPublish
	commandSubscribe
	commandUnsubscribe
)

// A command is one command of an exchange, and its answer.
type command struct {
	kind      commandKind
	channels  []string // subscribe and unsubscribe only: each is confirmed
	confirmed int
	err       error // a redisconn.Error
}

// An exchange is a number of commands that are written together. The
// reader owns it from the write on until done is closed.
type exchange struct {
	link     *link
	bytes    []byte
	commands []command
	answered int           // how many commands
	refused  error         // why the link has to end, but not the trunk
	done     chan struct{} // closed when all are answered
	lead     chan struct{} // holds one: the exchange is the first of the next write, which its caller makes
	written  bool          // at least in part; guarded by trunk.mu
}

// An outcome is how an exchange ended.
type outcome struct {
	written  bool  // at least in part
	answered int   // how many commands; all if err is nil
	err      error // why the link died
}

// maxPatience is for how many timeouts an answer may be awaited while other answers
// or messages come. Without a bound, a server that sends those without end would keep
// the link for ever.
const maxPatience = 10

// do writes commands and waits until all are answered or the trunk is dead.
func (l *link) do(q *query) outcome { return l.trunk.do(q, l) }

// do does so for the link l, or for the lane if l is nil. It makes the trunk dead if
// nothing is read for its timeout.
func (t *trunk) do(q *query, l *link) outcome {
	e := &exchange{link: l, bytes: q.bytes, commands: q.commands, done: make(chan struct{})}
	first, err := t.enter(e)
	if err != nil {
		return outcome{err: err}
	}
	life := t.life.Load()
	var broken error
	n := 0
	if first {
		n, broken = t.write(q.bytes)
	}
	timer := time.NewTimer(t.timeout)
	defer timer.Stop()
	waited := 0
	for alive := true; alive; {
		select {
		case <-e.done:
			if broken != nil {
				t.fail(fmt.Errorf("write to Redis: %w", broken))
			}
			if e.refused != nil {
				l.leave(e.refused)
			}
			return outcome{written: true, answered: len(q.commands), err: e.refused}
		case <-e.lead:
			first = true
			n, broken = t.writeAll()
		case <-t.dead:
			alive = false
		case <-timer.C:
			waited++
			if now := t.life.Load(); now != life && waited < maxPatience {
				life = now
				timer.Reset(t.timeout)
				continue
			}
			t.fail(fmt.Errorf("herald: Redis has not answered for %v", time.Duration(waited)*t.timeout))
		}
	}
	<-t.ended // from here on the exchange is ours again
	t.mu.Lock()
	written := e.written
	e.bytes = nil // writeAll may run in another goroutine that has not seen the trunk die
	t.mu.Unlock()
	if e.answered == len(q.commands) {
		return outcome{written: true, answered: e.answered, err: e.refused}
	}
	if first { // only the goroutine that wrote knows exactly
		written = n > 0
	}
	return outcome{written: written, answered: e.answered, err: t.reason()}
}

func isTimeout(err error) bool {
	timeout, ok := errors.AsType[net.Error](err)
	return ok && timeout.Timeout()
}

// end makes the link dead for the reason err, and reports whether it was alive.
func (l *link) end(err error) bool {
	l.mu.Lock()
	first := l.err == nil
	if first {
		l.err = err
	}
	l.mu.Unlock()
	if first {
		close(l.dead)
	}
	return first
}

// fail makes the link and its trunk dead if the link is alive. It does not block.
func (l *link) fail(err error) {
	if l.end(err) {
		l.trunk.fail(err)
	}
}

// leave makes the link dead. The trunk lives on if others use it, unless the server
// still has subscriptions of the link, which would not end.
func (l *link) leave(err error) {
	l.end(err)
	if l.in != nil && l.in.held.Load() > 0 {
		l.trunk.fail(l.reason())
	}
	l.trunk.remove(l)
}

// close makes the link dead. If the trunk is dead then, close waits for its
// goroutines.
func (l *link) close(err error) {
	l.leave(err)
	l.trunk.finish()
}

// reason returns why the link is dead, or nil.
func (l *link) reason() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}
