package herald

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald/internal/resp"
)

// For some ten seconds after a failover that was asked for, and when a
// master comes back that was taken for dead, the old master is a master
// still, and answers every question well; and one that is left with a minority
// of the Sentinels is that for as long as the network is split. Who is linked to
// it hears nothing of those who are linked to the new one. So a server is
// believed only while most Sentinels name it. What was published there in the
// meantime may not have been heard by those who had left before: a notice on the
// new master tells them.

// failoverAddr is what go-redis calls the address of a client that asks
// Sentinels.
const failoverAddr = "FailoverClient"

// dialError is an error of a client's Dialer. Of one that asks Sentinels
// redis.Nil is their answer that they have not heard of the master.
func dialError(err error) error {
	if errors.Is(err, redis.Nil) {
		return errors.New("herald: the Sentinels know no master by the name that MasterName of redis.FailoverOptions gives")
	}
	return err
}

const (
	// sentinelLag is how long Sentinels may name different masters: they tell
	// each other every two seconds
	// (https://redis.io/docs/latest/operate/oss_and_stack/management/sentinel).
	sentinelLag = 2 * time.Second

	// minMasterAge is the least age at which the word of the Sentinels is old:
	// when two of one have been missed, and a second has gone by.
	minMasterAge = 2*sentinelLag + time.Second

	// renamedAfter is how long nobody may be named as the server that we know
	// by another address before we learn that anew.
	renamedAfter = time.Minute
)

var (
	errMoved      = errors.New("herald: the Sentinels name another master")
	errNoMajority = errors.New("herald: no majority of the Sentinels names this master")
)

// A redisMaster is what the Sentinels say of the master; nil where there are
// none.
//
// One of them, go-redis' own, names it whenever go-redis dials. What the others
// say is heard on the master itself, where each publishes every two seconds
// whom it names. So no other credentials are needed, nor any address.
type redisMaster struct {
	options *redis.Options // of a link
	timeout time.Duration  // for an answer
	age     time.Duration  // at which their word is old

	// Of follow's goroutine.

	votes   sentinelVotes
	ear     *sentinelEar
	servers map[string]string // by the name that Sentinels give it, where that is not its address
	literal bool              // names are addresses

	mu     sync.Mutex
	server string    // the one that our links lead to and a majority names; "" at first
	named  time.Time // when it last did
	why    error     // why not since
}

// newRedisMaster returns what follows the master of a client's Sentinels, or nil.
func newRedisMaster(user *redis.Options, timeout time.Duration) *redisMaster {
	if user.Addr != failoverAddr {
		return nil
	}
	return &redisMaster{
		options: linkOptions(user, timeout),
		timeout: timeout,
		age:     max(timeout, minMasterAge),
		votes:   make(sentinelVotes),
		servers: make(map[string]string),
		named:   time.Now(),
	}
}

// confirm notes that a majority named the server at that time.
func (m *redisMaster) confirm(server string, at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.server, m.why = server, nil
	if at.After(m.named) {
		m.named = at
	}
}

func (m *redisMaster) doubt(why error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.why = why
}

// proved returns since when at the latest a proof of the time at holds.
func (m *redisMaster) proved(at time.Time) time.Time {
	if m == nil {
		return at
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if known := m.named.Add(-sentinelLag); known.Before(at) {
		return known
	}
	return at
}

// health returns why a server may have been replaced, or nil.
func (m *redisMaster) health(server string) error {
	if m == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case time.Since(m.named) <= m.age && (m.server == server || m.server == ""):
		return nil
	case m.why == nil, errors.Is(m.why, errNoMajority):
		return errNoMajority
	}
	return fmt.Errorf("%w: %w", errNoMajority, m.why)
}

// tryListening returns an error if Redis denies what follow needs.
func (m *redisMaster) tryListening(ctx context.Context) error {
	err := m.ask(ctx, func(string) bool { return true })
	if said, ok := errors.AsType[redisError](err); ok {
		return fmt.Errorf("allow SUBSCRIBE with the channel %s (ACL SETUSER <user> +subscribe &%[1]s): %w", sentinelChannel, said)
	}
	return nil
}

// follow asks at every tick who the master is, and tells leads the address,
// which moves what is linked to another server, and returns whether nothing was.
func (m *redisMaster) follow(ctx context.Context, tick time.Duration, leads func(server string) bool) {
	defer m.stopListening()
	timer := time.NewTicker(tick)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		if err := m.ask(ctx, leads); err != nil {
			m.doubt(err)
		}
	}
}

// ask confirms the server that all is linked to, or returns why not.
func (m *redisMaster) ask(ctx context.Context, leads func(server string) bool) error {
	start := time.Now()
	// Without a deadline: where it strikes, go-redis does not give up a Sentinel
	// that is cut off for one that answers. Its own timeouts come to an end.
	conn, err := m.options.Dialer(ctx, m.options.Network, m.options.Addr)
	if err != nil {
		return dialError(err)
	}
	ctx, cancel := context.WithTimeout(ctx, 2*m.timeout)
	defer cancel()
	server := conn.RemoteAddr().String()
	moved := !leads(server)
	if err := m.listen(ctx, conn); err != nil {
		return fmt.Errorf("listen to the Sentinels: %w", err)
	}
	name, named := m.votes.majority(start)
	switch {
	case moved:
		return errMoved
	case len(m.votes) == 0: // a service that only speaks as a Sentinel does
		m.confirm(server, start)
	case name != "" && m.isNamed(ctx, server, name):
		m.confirm(server, named)
	default:
		return errNoMajority
	}
	return nil
}

// isNamed says whether the server is the one that Sentinels name. A Dialer of
// the user's may reach it at an address that they do not know; that is learned.
func (m *redisMaster) isNamed(ctx context.Context, server, name string) bool {
	host, port, _ := net.SplitHostPort(name)
	addrs, _ := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	for _, addr := range addrs {
		if net.JoinHostPort(addr.Unmap().String(), port) == server {
			m.literal = true
			return true
		}
	}
	if m.literal {
		return false
	}
	m.mu.Lock()
	if time.Since(m.named) > renamedAfter {
		clear(m.servers)
	}
	m.mu.Unlock()
	known, ok := m.servers[name]
	if !ok {
		for _, other := range m.servers {
			if other == server {
				return false
			}
		}
		m.servers[name], known = server, server
	}
	return known == server
}

// followMaster drops the links where the master is another server than theirs.
func (p *redisPartition) followMaster(ctx context.Context, tick time.Duration) {
	p.pub.dialer.master.follow(ctx, tick, func(server string) bool {
		here := true
		pub, _ := p.pub.state()
		for _, link := range []*redisLink{p.sub.uplink.Link(), pub} {
			if link != nil && link.server != server {
				link.fail(errMoved)
				here = false
			}
		}
		return here
	})
}

// lastTaken tells of the last publication that a server took.
type lastTaken struct {
	addr   string    // of the server
	proved time.Time // when the Sentinels are known to have named it
	at     time.Time
}

// noteTaken notes that link has taken a publication.
func (p *redisPublisher) noteTaken(link *redisLink) {
	if p.dialer.master != nil {
		now := time.Now()
		p.last = lastTaken{link.server, p.dialer.master.proved(now), now}
	}
}

// tellMoved publishes on a new link that what was published on the last one
// may be lost, where that led to another server.
func (p *redisPublisher) tellMoved(link *redisLink) error {
	if p.last.addr == "" || p.last.addr == link.server {
		return nil
	}
	data := binary.BigEndian.AppendUint64(nil, uint64(time.Since(p.last.proved)))
	data = binary.BigEndian.AppendUint64(data, uint64(time.Since(p.last.at)))
	q := &redisQuery{bytes: resp.AppendCommand(nil, 3), commands: []redisCommand{{kind: commandPublish}}}
	for _, word := range []string{"PUBLISH", p.dialer.way.moved, string(data)} {
		q.bytes = resp.AppendWord(q.bytes, word)
	}
	return link.do(q).err
}

// tookMoved takes another Bus' notice. What was published elsewhere before we
// came to this server we have heard there, or it lies in the gap of the move.
func (in *redisInbound) tookMoved(data []byte) {
	if len(data) != 16 {
		return
	}
	now := time.Now()
	since := now.Add(-time.Duration(binary.BigEndian.Uint64(data)))
	until := now.Add(-time.Duration(binary.BigEndian.Uint64(data[8:])))
	s := in.sub
	up := s.uplink.Health() == nil // before it is, arrived is set
	s.mu.Lock()
	arrived := s.arrived
	s.mu.Unlock()
	if !up || !until.After(arrived) {
		return
	}
	if since.Before(arrived) {
		since = arrived
	}
	in.flush()
	s.inbox.Down(Event{Kind: EventDown, Since: since, Err: errMoved})
	s.inbox.Restore()
}
