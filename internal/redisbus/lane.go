package redisbus

import (
	"errors"
	"fmt"
	"slices"

	"github.com/heraldgo/herald/internal/batch"
	"github.com/heraldgo/herald/internal/errs"
	"github.com/heraldgo/herald/internal/redisconn"
)

// A lane publishes together what the partitions publish whose links share a trunk. A
// publication that it cannot publish goes to the partition's own publisher, which
// connects, and follows a slot that has moved.
type lane struct {
	trunk *trunk
	batch *batch.Batcher[*publication]

	// Used by the committing goroutine alone.

	query  query
	shares []share
}

// A share is one partition's part of a commit.
type share struct {
	pub   *publisher
	link  *link
	still int   // the index of the command that asks whether the node still has the slot
	doubt error // why publications that the node took may be lost
}

// errAside says that a lane has left a publication to the partition's publisher.
// Nothing of it was taken.
var errAside = errors.New("herald: not published together with other partitions")

func newLane(t *trunk) *lane {
	n := &lane{trunk: t}
	n.batch = batch.New(batch.Config[*publication]{
		Commit:   n.commit,
		Size:     func(p *publication) int { return len(p.bytes) },
		MaxItems: maxPublishItems,
		MaxBytes: maxPublishBytes,
	})
	return n
}

// commit publishes, in one write, the items of publishers with a link on the trunk.
// It never publishes again what may have been taken.
func (n *lane) commit(items []*publication) []error {
	q := n.query
	q.bytes, q.commands = q.bytes[:0], q.commands[:0]
	n.shares = n.shares[:0]
	for _, item := range items {
		if !n.has(item.pub) {
			continue
		}
		q.bytes = append(q.bytes, item.bytes...)
		for range item.packets {
			q.commands = append(q.commands, command{kind: commandPublish})
		}
	}
	results := make([]error, len(items))
	var out outcome
	if len(q.commands) > 0 {
		for i := range n.shares {
			n.shares[i].still = len(q.commands)
			n.shares[i].pub.dialer.way.addStill(&q)
		}
		out = n.trunk.do(&q, nil)
		n.judge(q.commands, out)
	}
	at := 0
	for i, item := range items {
		s := n.shareOf(item.pub)
		if s == nil {
			results[i] = errAside
			continue
		}
		results[i] = s.result(item, q.commands[at:at+item.packets], out, out.answered-at)
		at += item.packets
	}
	if cap(q.bytes) > 2*maxPublishBytes {
		q.bytes = nil
	}
	n.query = q
	clear(n.shares)
	return results
}

// has reports whether the publisher has a link on the trunk, and if so adds its share.
func (n *lane) has(p *publisher) bool {
	if n.shareOf(p) != nil {
		return true
	}
	l, _ := p.state()
	if l == nil || l.trunk != n.trunk || l.reason() != nil {
		return false
	}
	n.shares = append(n.shares, share{pub: p, link: l})
	return true
}

func (n *lane) shareOf(p *publisher) *share {
	i := slices.IndexFunc(n.shares, func(s share) bool { return s.pub == p })
	if i < 0 {
		return nil
	}
	return &n.shares[i]
}

// judge finds out which partitions' slots have moved, as publisher.exchange does.
func (n *lane) judge(commands []command, out outcome) {
	for i := range n.shares {
		s := &n.shares[i]
		s.doubt = out.err
		if s.still >= out.answered {
			continue
		}
		s.doubt = nil
		if said, ok := commands[s.still].err.(redisconn.Error); ok && astray(said) && !asks(said) {
			s.link.leave(said)
			s.doubt = said
		}
	}
}

// result returns the outcome of an item's commands. answered says how many of them,
// from the first on, have an answer. If the server has refused all of them because
// another node has the slot, it returns errAside.
func (s *share) result(item *publication, commands []command, out outcome, answered int) error {
	if !out.written {
		return errAside
	}
	refused := 0
	for i := range commands[:min(max(answered, 0), len(commands))] {
		c := &commands[i]
		said, ok := c.err.(redisconn.Error)
		switch {
		case ok && astray(said):
			s.link.leave(said)
			refused++
		case c.err == nil && s.doubt != nil:
			c.err = fmt.Errorf("%w: %w", errs.Unknown, s.doubt)
		}
	}
	if refused == len(commands) {
		return errAside
	}
	return out.result(commands, answered)
}
