package mqttbus

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/backoff"
	"github.com/heraldgo/herald/internal/batch"
	"github.com/heraldgo/herald/internal/errs"
)

// A publication is what one call publishes, encoded by the caller, so that
// nothing of the caller's is used once a call has been given up.
type publication struct {
	bytes []byte
	parts []part
}

// A part is one PUBLISH. Its fields are offsets in the publication's bytes.
type part struct {
	topic string // herald's
	start int
	end   int
	id    int // where the packet identifier is
	stamp int // where the stamp is; 0: it has none
}

var publications = sync.Pool{New: func() any { return new(publication) }}

// keepPublication is the most bytes whose memory is used again, and
// keepParts the most parts.
const (
	keepPublication = 64 << 10
	keepParts       = 256
)

func newPublication() *publication { return publications.Get().(*publication) }

// free gives up p, which nobody else may use.
func (p *publication) free() {
	if cap(p.bytes) > keepPublication || cap(p.parts) > keepParts {
		return
	}
	clear(p.parts)
	p.bytes, p.parts = p.bytes[:0], p.parts[:0]
	publications.Put(p)
}

// add appends a packet under the name of an MQTT topic, with room for a stamp.
func (p *publication) add(qos byte, name []byte, packet herald.Packet) {
	at := part{topic: packet.Topic, start: len(p.bytes)}
	p.bytes, at.id = appendPublish(p.bytes, qos, name, stampSize+len(packet.Data))
	at.stamp = len(p.bytes)
	p.bytes = append(p.bytes, make([]byte, stampSize)...)
	p.bytes = append(p.bytes, packet.Data...)
	at.end = len(p.bytes)
	p.parts = append(p.parts, at)
}

// addProbe appends a probe that is sent at start, on the Bus' clock.
func (p *publication) addProbe(qos byte, name string, start int64) {
	at := part{start: len(p.bytes)}
	p.bytes, at.id = appendPublish(p.bytes, qos, []byte(name), 8)
	p.bytes = binary.BigEndian.AppendUint64(p.bytes, uint64(start))
	at.end = len(p.bytes)
	p.parts = append(p.parts, at)
}

// A publisher owns the link that publishes. Commits connect it anew if it
// is dead; no other goroutine does.
type publisher struct {
	ctx    context.Context // ends at Close
	dialer *dialer
	qos    byte
	batch  *batch.Batcher[*publication]

	// The committing goroutine's.

	ledger  ledger
	bytes   []byte
	flown   []flown
	answers []answer
	backoff backoff.Backoff
	retry   time.Time // not before it is dialed again

	hurried atomic.Bool // it is dialed again at once

	mu     sync.Mutex
	link   *link
	down   error  // why there is no link
	limits limits // the last link's
}

// A flown is a part on its way.
type flown struct {
	*part
	item  int // that it belongs to
	until int // where it ends in the bytes of the flight
	mark  stamp
	fate  fate
	code  byte // why it was refused
}

// A fate is what became of a part.
type fate uint8

const (
	untouched fate = iota // not written, or not whole
	unknown
	taken
	refused
)

func newPublisher(ctx context.Context, d *dialer, qos byte, id uint64) *publisher {
	p := &publisher{ctx: ctx, dialer: d, qos: qos, ledger: ledger{publisher: id}}
	p.batch = batch.New(batch.Config[*publication]{
		Ready:    p.ready,
		Commit:   p.commit,
		Size:     func(p *publication) int { return len(p.bytes) },
		MaxItems: maxPublishItems,
		MaxBytes: maxPublishBytes,
	})
	return p
}

// publish waits until what is published, and owns it.
func (p *publisher) publish(ctx context.Context, what *publication) error {
	err := p.batch.Do(ctx, what)
	if !errors.Is(err, batch.ErrTaken) {
		what.free()
	}
	return errs.OfPublish(ctx, err, p.health)
}

// ready connects the link if it is dead, unless that has just failed.
func (p *publisher) ready() error {
	link, down := p.state()
	if link != nil {
		why := link.reason()
		if why == nil {
			return nil
		}
		link.close(nil)
		p.set(nil, why)
		p.retry = time.Now().Add(p.backoff.Lost(time.Since(link.born)))
		down = why
	}
	if p.ctx.Err() != nil {
		return herald.ErrClosed
	}
	if !p.hurried.Swap(false) && time.Now().Before(p.retry) {
		return fmt.Errorf("%w: %w", herald.ErrBusDown, down)
	}
	return p.connect()
}

func (p *publisher) connect() error {
	link, err := p.dialer.dial(p.ctx, nil)
	if err != nil {
		p.retry = time.Now().Add(p.backoff.Fail())
		p.set(nil, err)
		return fmt.Errorf("%w: %w", herald.ErrBusDown, err)
	}
	p.set(link, nil)
	if p.ctx.Err() != nil { // Close may have seen no link to drop
		return herald.ErrClosed
	}
	return nil
}

// commit publishes all, and never again.
func (p *publisher) commit(items []*publication) []error {
	link, _ := p.state()
	errs := make([]error, len(items))
	p.load(items, link.limits, errs)
	var err error
	if p.qos == 0 {
		err = p.flyAtOnce(link)
	} else {
		err = p.flyInWindows(link)
	}
	p.settle(items, errs, err)
	if cap(p.bytes) > 2*maxPublishBytes {
		p.bytes = nil
	}
	clear(p.flown)
	return errs
}

// load stamps the packets of all items and puts them one behind the other. It refuses
// packets for which the broker would break the link.
func (p *publisher) load(items []*publication, limits limits, errs []error) {
	p.bytes, p.flown = p.bytes[:0], p.flown[:0]
	for i, item := range items {
		if errs[i] = item.check(limits); errs[i] != nil {
			continue
		}
		base := len(p.bytes)
		for j := range item.parts {
			at := &item.parts[j]
			f := flown{part: at, item: i, until: base + at.end}
			if at.stamp > 0 {
				f.mark = p.ledger.next(at.topic)
				f.mark.put(item.bytes[at.stamp:])
			}
			p.flown = append(p.flown, f)
		}
		p.bytes = append(p.bytes, item.bytes...)
	}
}

func (p *publication) check(limits limits) error {
	for _, at := range p.parts {
		if err := checkSize(at.end-at.start, limits); err != nil {
			return err
		}
	}
	return nil
}

// checkSize refuses a packet that is larger than the broker takes: it would
// end the link (MQTT 5.0, section 3.2.2.3.6).
func checkSize(size int, limits limits) error {
	if size > limits.packet {
		return fmt.Errorf("%w: a packet of %d bytes: the broker takes %d", herald.ErrInvalid, size, limits.packet)
	}
	return nil
}

// flyAtOnce writes all and a PINGREQ behind it. QoS 0 knows no
// acknowledgement, but a broker reads the packets of a connection one after the
// other: when the PINGRESP comes it has taken them.
func (p *publisher) flyAtOnce(link *link) error {
	if len(p.flown) == 0 {
		return nil
	}
	p.bytes = append(p.bytes, ping...)
	p.answers = append(p.answers[:0], answer{kind: packets.PINGRESP})
	written, err := link.do(p.bytes, p.answers)
	for i := range p.flown {
		switch f := &p.flown[i]; {
		case err == nil:
			f.fate = taken
		case written >= f.until:
			f.fate = unknown
		}
	}
	return err
}

// flyInWindows writes no more packets at a time than the broker allows to be
// unacknowledged (MQTT 5.0, section 3.3.4).
func (p *publisher) flyInWindows(link *link) error {
	begin := 0
	for window := range slices.Chunk(p.flown, link.limits.inflight) {
		p.answers = p.answers[:0]
		for i := range window {
			f := &window[i]
			id := f.until - f.end + f.id
			binary.BigEndian.PutUint16(p.bytes[id:], uint16(i+1))
			p.answers = append(p.answers, answer{kind: packets.PUBACK})
		}
		end := window[len(window)-1].until
		written, err := link.do(p.bytes[begin:end], p.answers)
		for i := range window {
			switch f, a := &window[i], p.answers[i]; {
			case a.done && a.code >= 0x80:
				f.fate, f.code = refused, a.code
			case a.done:
				f.fate = taken
			case begin+written >= f.until:
				f.fate = unknown
			}
		}
		if err != nil {
			return err
		}
		begin = end
	}
	return nil
}

// settle finds the result of each item. A packet that was not taken, or perhaps not,
// leaves the ledger again, the last one first: the publisher is told of it, so no
// subscriber need miss it. why is what ended the link.
func (p *publisher) settle(items []*publication, errs []error, why error) {
	for _, f := range slices.Backward(p.flown) {
		if f.fate != taken && f.stamp > 0 {
			p.ledger.set(f.topic, f.mark.previous)
		}
	}
	for rest := p.flown; len(rest) > 0; {
		n := len(items[rest[0].item].parts)
		errs[rest[0].item] = result(rest[:n], why)
		rest = rest[n:]
	}
}

// result is what became of the parts of one item.
func result(parts []flown, why error) error {
	var count [4]int
	for _, f := range parts {
		count[f.fate]++
		if f.fate == refused {
			puback := packets.Puback{ReasonCode: f.code}
			why = &refusal{"PUBLISH", f.code, puback.Reason()}
		}
	}
	switch {
	case count[taken] == len(parts):
		return nil
	case count[taken]+count[unknown] > 0:
		return fmt.Errorf("%w: %d of %d packets were taken, and %d perhaps: %w", herald.ErrUnknown, count[taken], len(parts), count[unknown], why)
	case count[refused] > 0:
		return why
	}
	return fmt.Errorf("%w: %w", herald.ErrBusDown, why)
}

func (p *publisher) state() (*link, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.link, p.down
}

func (p *publisher) set(link *link, down error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.link, p.down = link, down
	if link != nil {
		p.limits = link.limits
	}
}

// lastLimits are those of the last link.
func (p *publisher) lastLimits() limits {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.limits
}

// health returns why nothing can be published, or nil.
func (p *publisher) health() error {
	link, down := p.state()
	if link != nil {
		return link.reason()
	}
	return down
}

// hurry has the next publish dial at once if there is no link, because the broker has
// just given a sign of life.
func (p *publisher) hurry() { p.hurried.Store(true) }

// drop makes the link dead, if there is one.
func (p *publisher) drop(why error) {
	if link, _ := p.state(); link != nil {
		link.fail(why)
	}
}

// close ends the committing goroutine, then the link.
func (p *publisher) close() {
	p.batch.Close(herald.ErrClosed)
	if link, _ := p.state(); link != nil {
		link.close(herald.ErrClosed)
	}
}
