package redisbus

import (
	"bytes"
	"fmt"

	"github.com/heraldgo/herald/internal/redisconn"
	"github.com/heraldgo/herald/internal/resp"
)

// The reader of subscribed links can buffer any channel name, and some hundred small
// messages, which then cost one read together. A trunk that only publishes gets short
// answers.
const (
	readBuffer  = 64 << 10
	replyBuffer = 4 << 10
)

// read reads replies and messages until the trunk is dead.
func (t *trunk) read() {
	defer close(t.ended)
	size, before := replyBuffer, func() {}
	if t.intake != nil {
		size, before = readBuffer, t.intake.flush
	}
	from := newLinkReader(t.conn, before)
	r := resp.NewReader(from, size)
	pace := pace{share: t.share, processors: &processors}
	for {
		if err := t.readOne(r); err != nil {
			if t.intake != nil {
				t.intake.flush()
			}
			t.fail(fmt.Errorf("read from Redis: %w", err))
			return
		}
		if t.intake == nil {
			continue
		}
		pace.messages++
		if r.Buffered() == 0 && from.drained && pace.rests() {
			t.intake.flush()
			from.rest()
		}
	}
}

func (t *trunk) readOne(r *resp.Reader) error {
	h, err := r.Header()
	if err != nil {
		return err
	}
	// Servers that know RESP3 only in part push with arrays.
	if t.intake != nil && h.Len == 3 && (h.Kind == '>' || h.Kind == '*') {
		t.life.Add(1)
		return t.readPush(r)
	}
	v, err := r.Rest(h)
	if err != nil || h.Kind == '>' || h.Kind == '|' {
		return err // a push that nobody asked for, or an attribute of the next reply
	}
	t.life.Add(1)
	return t.reply(v)
}

// readPush reads a message, or a confirmation of a subscription.
func (t *trunk) readPush(r *resp.Reader) error {
	word, err := r.Peek()
	if err != nil {
		return err
	}
	kind := commandSubscribe
	switch string(word) {
	case "message", "smessage":
		return t.message(r)
	case "subscribe", "ssubscribe":
	case "unsubscribe", "sunsubscribe":
		kind = commandUnsubscribe
	default:
		return fmt.Errorf("%w: push %q", resp.ErrProtocol, word)
	}
	word, err = r.Peek()
	if err != nil {
		return err
	}
	channel := string(word)
	count, err := r.Header()
	if err != nil {
		return err
	}
	c, in := t.expected(kind, channel)
	if c == nil {
		return t.unasked(kind, channel, count.Len)
	}
	if err := t.uncut(); err != nil {
		return err
	}
	if err := in.confirmed(kind, c.channels[c.confirmed], count.Len); err != nil {
		return err
	}
	c.confirmed++
	if c.confirmed == len(c.channels) {
		t.answered()
	}
	return nil
}

// message reads the rest of a message.
func (t *trunk) message(r *resp.Reader) error {
	if err := t.uncut(); err != nil {
		return err
	}
	word, err := r.Peek()
	if err != nil {
		return err
	}
	if l := t.linkOf(word); l != nil {
		return l.in.message(word, r)
	}
	if !t.shared {
		return fmt.Errorf("herald: Redis sent a message of %q, which nobody asked for", word)
	}
	return fmt.Errorf("herald: Redis sent a message of %q, whose partition has left", word)
}

// linkOf returns the link that a channel's messages are for, or nil.
func (t *trunk) linkOf(channel []byte) *link {
	routes := t.routes.Load()
	if routes == nil {
		return nil
	}
	if !t.shared {
		for _, l := range *routes {
			return l
		}
	}
	return (*routes)[string(channel[:bytes.IndexByte(channel, '}')+1])]
}

// expected returns the command that a confirmation is for, and the inbound of its
// link, or nil.
func (t *trunk) expected(kind commandKind, channel string) (*command, *inbound) {
	if e := t.next(); e != nil {
		c := &e.commands[e.answered]
		if c.kind == kind && c.channels[c.confirmed] == channel {
			return c, e.link.in
		}
	}
	return nil, nil
}

// unasked takes a confirmation that nobody waits for. When another master gets a
// slot, the server ends all subscriptions of the slot, one after the other. After the
// last of them the slot's link is dead, but not the trunk. Any other such
// confirmation is an error.
func (t *trunk) unasked(kind commandKind, channel string, count int64) error {
	l := t.linkOf([]byte(channel))
	if kind != commandUnsubscribe || l == nil || !l.in.sub.way.sharded {
		return fmt.Errorf("herald: Redis changed the subscription of %q unasked", channel)
	}
	if t.cut != l {
		if err := t.uncut(); err != nil {
			return err
		}
	}
	if _, ok := l.in.channels[channel]; !ok {
		return fmt.Errorf("herald: Redis ended the subscription of %q, which there was not", channel)
	}
	if err := l.in.confirmed(kind, channel, count); err != nil {
		return err
	}
	t.cut = l
	if len(l.in.channels) == 0 {
		t.cut = nil
		t.intake.flush()
		l.end(fmt.Errorf("herald: Redis ended the subscription of %q: another master has its slot", channel))
	}
	return nil
}

// uncut is called when something other than the end of a subscription comes. It
// returns an error if the server has ended some subscriptions of a link, but not all.
func (t *trunk) uncut() error {
	if t.cut == nil {
		return nil
	}
	return fmt.Errorf("herald: Redis ended some subscriptions of %q, and not all", t.cut.in.sub.way.prefix)
}

// answered counts a command of the exchange as answered.
func (t *trunk) answered() {
	e := t.next()
	e.answered++
	if e.answered == len(e.commands) {
		t.completed()
	}
}

// reply takes the reply to a command, which is not a push.
func (t *trunk) reply(v resp.Value) error {
	e := t.next()
	if e == nil {
		return fmt.Errorf("%w: reply to nothing", resp.ErrProtocol)
	}
	if err := t.uncut(); err != nil {
		return err
	}
	c := &e.commands[e.answered]
	refused := v.Kind == '-'
	switch {
	case c.kind == commandHello:
		// Some servers do not tell their role, or do not know a bare HELLO. They may
		// be masters.
		if role := v.Field("role"); role != "" && role != "master" {
			return fmt.Errorf("herald: Redis is a %s, not a master", role)
		}
	case c.kind == commandInfo && !refused:
		if isolated(v.Str) {
			return errIsolated
		}
	case c.kind == commandInfo, c.kind == commandOwner:
		if refused && !asks(redisconn.Error(v.Str)) {
			e.refused = redisconn.Error(v.Str)
		}
	case refused:
		c.err = redisconn.Error(v.Str)
		if c.kind != commandPublish && c.kind != commandStill && astray(c.err.(redisconn.Error)) {
			e.refused = c.err // the link leads to the wrong node
		}
		if closing(redisconn.Error(v.Str)) {
			t.fail(c.err) // before anyone uses it again
		}
	case c.kind != commandPublish && c.kind != commandStill:
		return fmt.Errorf("%w: reply %q to a subscription", resp.ErrProtocol, v.Kind)
	}
	t.answered()
	return nil
}
