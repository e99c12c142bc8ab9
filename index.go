package herald

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
)

// A topic's first byte says what it is, so that a user and a group of the same name
// differ. The rest is the name, or its SHA-256 if the name is long; the first byte is
// then in upper case.
const (
	topicEveryone  = "*"
	topicHeartbeat = "h"
)

func userTopic(user string) string   { return topicName('u', 'U', user) }
func groupTopic(group string) string { return topicName('g', 'G', group) }

func groupTopics(groups []string) []string {
	topics := make([]string, len(groups))
	for i, g := range groups {
		topics[i] = groupTopic(g)
	}
	return topics
}

// watchTopic returns the topic to which the changes of a group's topic are published.
func watchTopic(groupTopic string) string {
	return string(groupTopic[0]-'g'+'w') + groupTopic[1:] // upper case stays so
}

func isWatchTopic(topic string) bool { return topic != "" && topic[0]|0x20 == 'w' }

func nodeTopic(node string) string { return "n" + node }

func isUserTopic(topic string) bool  { return topic != "" && topic[0]|0x20 == 'u' }
func isGroupTopic(topic string) bool { return topic != "" && topic[0]|0x20 == 'g' }

// maxTopic is the most bytes that a topic on the Bus has.
const maxTopic = 200

// maxNodeID is the most bytes of a node's id that its topic has room for.
const maxNodeID = maxTopic - len("n")

// hostName returns the host's name. Characters that a node's id may not have are
// replaced.
func hostName() string {
	name, _ := os.Hostname()
	return cmp.Or(safeName(name), "node")
}

// safeName returns name in at most 64 characters that a node's id may have.
func safeName(name string) string {
	name = strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '_':
			return r
		}
		return '-'
	}, name)
	return name[:min(len(name), 64)]
}

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
	users  int // how many topics are a user's
}

// members are the Conns of one topic, in no order.
type members struct {
	topic string
	name  string // the user's or group's
	conns []*Conn
}

// A membership is a Conn's place in members.
type membership struct {
	*members
	at int
}

// memberships are the topics of one Conn, in no order.
type memberships struct {
	list []membership
	at   map[*members]int // places in list; nil if there are only a few
	last []string         // the groups of a Conn that has been removed
}

// fewTopics is how many topics of a Conn are found in a list as fast as in a map.
const fewTopics = 16

// find returns the place in list, or -1.
func (s *memberships) find(m *members) int {
	if s.at == nil {
		return slices.IndexFunc(s.list, func(o membership) bool { return o.members == m })
	}
	if i, ok := s.at[m]; ok {
		return i
	}
	return -1
}

func (s *memberships) add(o membership) {
	s.list = append(s.list, o)
	switch n := len(s.list); {
	case s.at != nil:
		s.at[o.members] = n - 1
	case n > fewTopics:
		s.at = make(map[*members]int, 2*n)
		for i, o := range s.list {
			s.at[o.members] = i
		}
	}
}

// delete takes out the i-th membership, and puts the last one in its place.
func (s *memberships) delete(i int) {
	delete(s.at, s.list[i].members)
	last := len(s.list) - 1
	if i != last {
		s.list[i] = s.list[last]
		if s.at != nil {
			s.at[s.list[i].members] = i
		}
	}
	s.list[last] = membership{}
	s.list = s.list[:last]
	if last <= fewTopics/2 {
		s.at = nil
	}
}

func newIndex() *index {
	return &index{topics: make(map[string]*members), conns: make(map[uint64]*Conn)}
}

// add adds a new Conn, under its user and everyone. It returns false, and adds nothing,
// if the user has limit Conns already, or the node has total. A bound below 1 is none.
func (x *index) add(c *Conn, total, limit int) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	user := userTopic(c.identity.User)
	if m := x.topics[user]; limit > 0 && m != nil && len(m.conns) >= limit || total > 0 && len(x.conns) >= total {
		return false
	}
	x.conns[c.counter] = c
	c.memberships.list = make([]membership, 0, 2+min(len(c.identity.Groups), fewTopics))
	x.join(c, topicEveryone, "")
	x.join(c, user, c.identity.User)
	return true
}

// indexStep is how many memberships are changed in one go: messages wait while the index
// is locked.
const indexStep = 256

// joinGroups makes c a member of the groups, and returns the topics of those that are new
// to it. It joins none if c has been removed, or would belong to more than limit. A limit
// below 1 is none.
func (x *index) joinGroups(c *Conn, groups []string, limit int) (joined []string, err error) {
	topics := groupTopics(groups)
	if limit > 0 {
		if n := x.countWith(c, topics); n > limit {
			return nil, fmt.Errorf("%w: connection %s would belong to %d groups: MaxGroups is %d", ErrLimit, c.ID(), n, limit)
		}
	}
	for i := 0; i < len(groups); i += indexStep {
		x.mu.Lock()
		for j := i; j < min(i+indexStep, len(groups)) && x.conns[c.counter] == c; j++ {
			if x.join(c, topics[j], groups[j]) {
				joined = append(joined, topics[j])
			}
		}
		x.mu.Unlock()
	}
	return joined, nil
}

// countWith returns how many groups c would belong to with the topics. It locks once,
// because c may join some of them meanwhile.
func (x *index) countWith(c *Conn, topics []string) int {
	topics = slices.Clone(topics)
	slices.Sort(topics)
	topics = slices.Compact(topics)
	x.mu.RLock()
	defer x.mu.RUnlock()
	n := max(0, len(c.memberships.list)-2) // without everyone and its user
	for _, t := range topics {
		if x.find(c, t) < 0 {
			n++
		}
	}
	return n
}

func (x *index) join(c *Conn, topic, name string) bool {
	m := x.topics[topic]
	if m == nil {
		m = &members{topic: topic, name: name}
		x.topics[topic] = m
		if isUserTopic(topic) {
			x.users++
		} else {
			m.name = strings.Clone(name) // a Join's name may be a part of a long message
		}
	}
	if c.memberships.find(m) >= 0 {
		return false
	}
	c.memberships.add(membership{m, len(m.conns)})
	m.conns = append(m.conns, c)
	return true
}

// leaveGroup ends c's membership. It returns false if there was none.
func (x *index) leaveGroup(c *Conn, group string) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	i := x.find(c, groupTopic(group))
	if i < 0 {
		return false
	}
	x.leave(c, i)
	return true
}

// find returns the place of a topic in c's memberships, or -1.
func (x *index) find(c *Conn, topic string) int {
	m := x.topics[topic]
	if m == nil {
		return -1
	}
	return c.memberships.find(m)
}

// holds reports whether c belongs to a topic.
func (x *index) holds(c *Conn, topic string) bool {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.find(c, topic) >= 0
}

// leave ends c's i-th membership, and puts the topic's last Conn in its place.
func (x *index) leave(c *Conn, i int) {
	s := c.memberships.list[i]
	c.memberships.delete(i)
	m := s.members
	last := len(m.conns) - 1
	if moved := m.conns[last]; s.at != last {
		m.conns[s.at] = moved
		moved.memberships.list[moved.memberships.find(m)].at = s.at
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
	delete(x.conns, c.counter) // so that it cannot join anything meanwhile
	for n := 1; len(c.memberships.list) > 0; n++ {
		last := len(c.memberships.list) - 1
		m := c.memberships.list[last].members
		topics = append(topics, m.topic)
		if isGroupTopic(m.topic) {
			c.memberships.last = append(c.memberships.last, m.name)
		}
		x.leave(c, last)
		if n%indexStep == 0 {
			x.mu.Unlock()
			x.mu.Lock()
		}
	}
	c.memberships = memberships{last: c.memberships.last}
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
	for _, s := range c.memberships.list {
		topics = append(topics, s.topic)
	}
	return topics
}

// strays returns those of the topics that c does not belong to.
func (x *index) strays(c *Conn, topics []string) (strays []string) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	for _, t := range topics {
		if x.find(c, t) < 0 {
			strays = append(strays, t)
		}
	}
	return strays
}

// groupsOf returns the names of c's groups. If c has been removed, they are those that it
// had then.
func (x *index) groupsOf(c *Conn) (groups []string) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	groups = slices.Clone(c.memberships.last)
	for _, s := range c.memberships.list {
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
