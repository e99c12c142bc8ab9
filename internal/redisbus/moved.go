package redisbus

import (
	"context"
	"encoding/binary"
	"time"

	"github.com/heraldgo/herald/internal/redisconn"
	"github.com/heraldgo/herald/internal/resp"
)

// followMaster drops a link if it leads to another server than the master.
func (p *partition) followMaster(ctx context.Context, tick time.Duration) {
	p.pub.dialer.master.Follow(ctx, tick, func(server string) {
		pub, _ := p.pub.state()
		for _, link := range []*link{p.sub.uplink.Link(), pub} {
			if link != nil && link.trunk.server != server {
				link.fail(redisconn.ErrMoved)
			}
		}
	})
}

// lastTaken describes the last publication that a server took.
type lastTaken struct {
	server string
	proved time.Time // when the Sentinels last named it for certain, or else when the link was made
	at     time.Time
}

// noteTaken notes that link has taken a publication.
func (p *publisher) noteTaken(l *link) {
	if p.dialer.master == nil {
		return
	}
	now := time.Now()
	proved := p.dialer.master.Proved(l.trunk.server, now)
	if proved.IsZero() {
		proved = p.born
		if p.last.server == l.trunk.server {
			proved = p.last.proved
		}
	}
	p.last = lastTaken{l.trunk.server, proved, now}
}

// tellMoved publishes a notice on a new link if the last one led to another server:
// what was published there may be lost.
func (p *publisher) tellMoved(l *link) error {
	if p.last.server == "" || p.last.server == l.trunk.server {
		return nil
	}
	data := binary.BigEndian.AppendUint64(nil, uint64(time.Since(p.last.proved)))
	data = binary.BigEndian.AppendUint64(data, uint64(time.Since(p.last.at)))
	q := &query{bytes: resp.AppendCommand(nil, 3), commands: []command{{kind: commandPublish}}}
	for _, word := range []string{"PUBLISH", p.dialer.way.moved, string(data)} {
		q.bytes = resp.AppendWord(q.bytes, word)
	}
	return l.do(q).err
}

// tookMoved takes another Bus' notice. What that Bus published elsewhere before we
// came to this server we have heard there, or it lies in the gap of our move. What it
// published elsewhere later never came into this server's log. That log looks whole,
// so nothing that it has proved since we came counts.
func (in *inbound) tookMoved(data []byte) {
	if len(data) != 16 {
		return
	}
	now := time.Now()
	since := now.Add(-time.Duration(binary.BigEndian.Uint64(data)))
	until := now.Add(-time.Duration(binary.BigEndian.Uint64(data[8:])))
	s := in.sub
	up := s.uplink.Health() == nil // arrived is set before the link is up
	s.mu.Lock()
	arrived := s.arrived
	s.mu.Unlock()
	if !up || !until.After(arrived) {
		return
	}
	if since.Before(arrived) {
		since = arrived
	}
	in.trunk.intake.flush()
	s.inbox.Lost(Event{Kind: KindDown, Since: since, Err: redisconn.ErrMoved, Hidden: true})
}
