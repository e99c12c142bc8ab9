package herald

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald/internal/resp"
)

// For some ten seconds after a failover that was asked for, and when a
// master comes back that was taken for dead, the old master is a master
// still, and answers every question well. Who is linked to it hears nothing
// of those who are linked to the new one. So the Bus asks the Sentinels, too:
// it believes no proof that they have not confirmed, and leaves a server that
// they do not name. What it published there in the meantime may not have been
// heard by those who had left before: a notice on the new master tells them.

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

// sentinelLag is how long Sentinels may name different masters: they tell
// each other every two seconds
// (https://redis.io/docs/latest/operate/oss_and_stack/management/sentinel).
const sentinelLag = 2 * time.Second

var errMoved = errors.New("herald: the Sentinels name another master")

// A redisMaster is what the Sentinels say of the master; nil where there are
// none.
type redisMaster struct {
	mu    sync.Mutex
	named time.Time // when they were last asked, and named the server of our links
}

func newRedisMaster(options *redis.Options) *redisMaster {
	if options.Addr != failoverAddr {
		return nil
	}
	return &redisMaster{named: time.Now()}
}

func (m *redisMaster) confirm(at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.named = at
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

// followMaster asks the Sentinels at every tick who the master is, and drops
// the links where it is another server than theirs. Go-redis' dialer is the
// way to ask; so the new master has answered, too.
func (p *redisPartition) followMaster(ctx context.Context, tick time.Duration) {
	timer := time.NewTicker(tick)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		start := time.Now()
		addr, err := p.pub.dialer.masterAddr(ctx)
		if err != nil {
			continue // no Sentinel answers: the proofs get old
		}
		moved := false
		pub, _ := p.pub.state()
		for _, link := range []*redisLink{p.sub.uplink.Link(), pub} {
			if link != nil && link.addr() != addr {
				link.fail(errMoved)
				moved = true
			}
		}
		if !moved {
			p.pub.dialer.master.confirm(start)
		}
	}
}

// masterAddr returns the address of the server that the Sentinels name.
func (d *redisDialer) masterAddr(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	conn, err := d.options.Dialer(ctx, d.options.Network, d.options.Addr)
	if err != nil {
		return "", err
	}
	conn.Close()
	return conn.RemoteAddr().String(), nil
}

func (l *redisLink) addr() string { return l.conn.RemoteAddr().String() }

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
		p.last = lastTaken{link.addr(), p.dialer.master.proved(now), now}
	}
}

// tellMoved publishes on a new link that what was published on the last one
// may be lost, where that led to another server.
func (p *redisPublisher) tellMoved(link *redisLink) error {
	if p.last.addr == "" || p.last.addr == link.addr() {
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
