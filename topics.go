package herald

import (
	"crypto/sha256"
	"slices"
	"strings"
	"sync"
)

// A topic's first byte says what it is, so that a user and a group of one
// name never meet. The rest is the name, raw, or its SHA-256 where the name
// is long (upper case).
const (
	topicEveryone  = "*"
	topicHeartbeat = "h"
)

func userTopic(user string) string   { return topicName('u', 'U', user) }
func groupTopic(group string) string { return topicName('g', 'G', group) }
func nodeTopic(node string) string   { return "n" + node }

func isUserTopic(topic string) bool  { return topic != "" && topic[0]|0x20 == 'u' }
func isGroupTopic(topic string) bool { return topic != "" && topic[0]|0x20 == 'g' }

// maxTopic is the most bytes that a topic on the Bus has.
const maxTopic = 200

func topicName(short, long byte, name string) string {
	if len(name) < maxTopic {
		return string(short) + name
	}
	sum := sha256.Sum256([]byte(name))
	return string(long) + string(sum[:])
}

// An index knows which Conns of this node belong to which topics. It does no
// I/O and calls nobody.
type index struct {
	mu     sync.RWMutex
	topics map[string]*members
	conns  map[uint64]*Conn
	users  int // topics of users
}

// members are the Conns of one topic, in no order.
type members struct {
	topic string
	name  string // of the user or group
	conns []*Conn
}

// A membership is a Conn's place in members.
type membership struct {
	*members
	at int
}

func newIndex() *index {
	return &index{topics: make(map[string]*members), conns: make(map[uint64]*Conn)}
}

// add takes in a new Conn, with its user, everyone, and groups. It answers
// false, and adds nothing, where the user has limit Conns already, or all
// together have total; a limit below 1 is none.
func (x *index) add(c *Conn, groups []string, total, limit int) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	user := userTopic(c.identity.User)
	if m := x.topics[user]; limit > 0 && m != nil && len(m.conns) >= limit || total > 0 && len(x.conns) >= total {
		return false
	}
	x.conns[c.counter] = c
	c.memberships = make([]membership, 0, 2+len(groups))
	x.join(c, topicEveryone, "")
	x.join(c, user, c.identity.User)
	for _, g := range groups {
		x.join(c, groupTopic(g), g)
	}
	return true
}

// joinGroup makes c a member of a group. It answers false where c has been
// removed, or belongs to it already.
func (x *index) joinGroup(c *Conn, group string) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.conns[c.counter] == c && x.join(c, groupTopic(group), group)
}

func (x *index) join(c *Conn, topic, name string) bool {
	m := x.topics[topic]
	if m == nil {
		m = &members{topic: topic, name: strings.Clone(name)} // of a Join it may be a part of a long message
		x.topics[topic] = m
		if isUserTopic(topic) {
			x.users++
		}
	}
	if slices.ContainsFunc(c.memberships, func(s membership) bool { return s.members == m }) {
		return false
	}
	c.memberships = append(c.memberships, membership{m, len(m.conns)})
	m.conns = append(m.conns, c)
	return true
}

// leaveGroup ends c's membership. It answers false where there was none.
func (x *index) leaveGroup(c *Conn, group string) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	topic := groupTopic(group)
	for i, s := range c.memberships {
		if s.topic == topic {
			x.leave(s)
			c.memberships = slices.Delete(c.memberships, i, i+1)
			return true
		}
	}
	return false
}

// leave fills the Conn's place with the last one.
func (x *index) leave(s membership) {
	m := s.members
	last := len(m.conns) - 1
	if moved := m.conns[last]; s.at != last {
		m.conns[s.at] = moved
		i := slices.IndexFunc(moved.memberships, func(o membership) bool { return o.members == m })
		moved.memberships[i].at = s.at
	}
	m.conns[last] = nil
	m.conns = m.conns[:last]
	switch {
	case last == 0:
		delete(x.topics, m.topic)
		if isUserTopic(m.topic) {
			x.users--
		}
	case cap(m.conns) > 64 && last < cap(m.conns)/4:
		m.conns = slices.Clip(slices.Clone(m.conns))
	}
}

// remove takes c out of all topics and returns them. A second call returns
// none.
func (x *index) remove(c *Conn) (topics []string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.conns[c.counter] != c {
		return nil
	}
	delete(x.conns, c.counter)
	for _, s := range c.memberships {
		topics = append(topics, s.topic)
		x.leave(s)
	}
	c.memberships = nil
	return topics
}

// get returns the Conn with this counter, or nil.
func (x *index) get(counter uint64) *Conn {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.conns[counter]
}

// appendConns appends the Conns of a topic to dst.
func (x *index) appendConns(dst []*Conn, topic string) []*Conn {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if m := x.topics[topic]; m != nil {
		dst = append(dst, m.conns...)
	}
	return dst
}

// appendSlice appends at most n Conns of everyone to dst, from the i-th on.
// Conns that come and go meanwhile may be left out, or seen twice.
func (x *index) appendSlice(dst []*Conn, i, n int) []*Conn {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if m := x.topics[topicEveryone]; m != nil && i < len(m.conns) {
		dst = append(dst, m.conns[i:min(i+n, len(m.conns))]...)
	}
	return dst
}

// topicsOf returns the topics of c.
func (x *index) topicsOf(c *Conn) (topics []string) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	for _, s := range c.memberships {
		topics = append(topics, s.topic)
	}
	return topics
}

// groupsOf returns the names of the groups of c.
func (x *index) groupsOf(c *Conn) (groups []string) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	for _, s := range c.memberships {
		if isGroupTopic(s.topic) {
			groups = append(groups, s.name)
		}
	}
	return groups
}

// nameOf returns the name behind the topic of a user or group that has Conns.
func (x *index) nameOf(topic string) (name string, ok bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	m, ok := x.topics[topic]
	if !ok {
		return "", false
	}
	return m.name, true
}

// size returns the numbers of Conns, users and topics.
func (x *index) size() (conns, users, topics int) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return len(x.conns), x.users, len(x.topics)
}
