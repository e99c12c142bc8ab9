package herald

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/heraldgo/herald/internal/conflate"
	"github.com/heraldgo/herald/internal/deflate"
	"github.com/heraldgo/herald/internal/errs"
	"github.com/heraldgo/herald/internal/history"
	"github.com/heraldgo/herald/internal/history/device"
	"github.com/heraldgo/herald/internal/history/driver"
	"github.com/heraldgo/herald/internal/history/node"
	"github.com/heraldgo/herald/internal/history/packet"
	"github.com/heraldgo/herald/internal/history/protocol"
	"github.com/heraldgo/herald/internal/history/store"
)

// A keeping is what a Hub has if Config.Retention is set. What the Hub sends goes
// through the log of the Bus. What the Bus hands over goes through the driver, whose
// owner is the goroutine that delivers.
type keeping struct {
	node   string
	logs   *logs
	driver *driver.Driver
	bus    Bus
	tell   func(since time.Time) // reports that something may be missing
	take   func(p *logged)       // delivers a packet
	plain  func() string         // names a node that keeps nothing, so that nobody may come back; or ""
	decode func(body []byte) (envelope, error)

	form form // used by the owner alone
}

// A logged is a packet that has come through the log of a partition.
type logged struct {
	history.Packet
	partition int
}

// topicFences begins the topics of a node's fences.
const topicFences = "f"
const segment = 1 << 14 // entries

// newKeeping opens the logs. The node does not know where they are until ready has
// returned.
func (h *Hub) newKeeping(ctx context.Context) (*keeping, error) {
	c := &h.config
	bus, ok := h.bus.(keeper)
	if !ok {
		return nil, fmt.Errorf("%w: Config.Retention: a %T keeps nothing: it needs the Bus of Redis, or that of memory", ErrInvalid, h.bus)
	}
	k := &keeping{node: h.id, bus: h.bus, tell: h.gaps.confirm, plain: func() string { return h.heartbeat.plainNode() }}
	k.decode = func(body []byte) (envelope, error) { return decodeEnvelope(body, h.maxFrame()) }
	var scratch []*Conn
	k.take = func(p *logged) { scratch = h.take(Packet{p.Topic, p.Body}, p, nil, scratch) }
	var err error
	if k.logs, err = bus.keep(ctx, topicFences+h.id, store.Limits{Segment: segment, Age: c.Retention.Milliseconds(), Bytes: c.RetentionBytes}); err != nil {
		return nil, fmt.Errorf("Config.Retention: %w", err)
	}
	n := len(k.logs.parts)
	parts := make([]driver.Partition, n)
	for i, log := range k.logs.parts {
		parts[i] = driver.Partition{Log: log, Bus: h.bus}
	}
	page := max(1, min(c.QueueMessages/4, 64))
	k.driver = driver.New(driver.Config{
		Partitions: parts,
		Hub:        k,
		Feed:       node.Limits{Held: 1 << 13, Recent: 1 << 11, Bytes: max(32<<20/n, 2*h.maxFrame()), Page: 128, Survey: 1 << 13},
		Device:     device.Limits{Survey: 1 << 12, Page: page, Live: page},
		Retention:  c.Retention,
		Rate:       2_000, Burst: 10_000, // all clients of a node that was restarted
		Bytes: 64 << 20,
	})
	h.gaps.doubt = k.driver.Doubt
	if err := h.bus.Subscribe(ctx, k.logs.fences...); err != nil {
		k.stop()
		return nil, err
	}
	k.pushLink(driver.Restored, nil) // nothing is followed yet, so nothing can have been missed
	return k, nil
}

// ready waits until the node knows where the logs are.
func (k *keeping) ready(ctx context.Context) error {
	if err := k.driver.At(ctx, func(history.Positions) {}); err != nil {
		return fmt.Errorf("Config.Retention: %w: the log does not answer: %w", ErrBusDown, k.why(err))
	}
	return nil
}

// why returns what the log says, or err.
func (k *keeping) why(err error) error {
	if said := k.driver.Health(); said != nil {
		return said
	}
	return err
}

// health returns why the log does not answer, or nil.
func (k *keeping) health() error {
	if k == nil {
		return nil
	}
	return k.driver.Health()
}

func (k *keeping) stop() {
	k.logs.close() // so that the driver need not wait for a Redis that is silent
	k.driver.Close()
}

// Subscribe and Unsubscribe are the follower's.

func (k *keeping) Subscribe(ctx context.Context, topics ...string) error {
	return k.change(ctx, k.driver.Subscribe, topics)
}

func (k *keeping) Unsubscribe(ctx context.Context, topics ...string) error {
	return k.change(ctx, k.driver.Unsubscribe, topics)
}

// change runs one of the driver's calls for the topics of each partition, at the same
// time.
func (k *keeping) change(ctx context.Context, call func(context.Context, int, ...string) error, topics []string) error {
	parts := k.split(topics)
	results := make([]error, len(parts))
	var calls sync.WaitGroup
	for i, topics := range parts {
		if len(topics) > 0 {
			calls.Go(func() { results[i] = call(ctx, i, topics...) })
		}
	}
	calls.Wait()
	return cmp.Or(results...)
}

// split deals topics out to their partitions.
func (k *keeping) split(topics []string) [][]string {
	if len(k.logs.parts) == 1 {
		return [][]string{topics}
	}
	parts := make([][]string, len(k.logs.parts))
	for _, topic := range topics {
		i := k.logs.partition(topic)
		parts[i] = append(parts[i], topic)
	}
	return parts
}

// maxTopics is the most topics that one entry of a log has. Whoever reads the entry
// for one of them has to look at all.
const maxTopics = 32

// An entry is what is to be appended to the log of a partition.
type entry struct {
	store.Draft
	partition int
	data      []byte // of its packets
}

// publish sends packets through their logs. If they are to be kept, the logs have them
// when publish returns nil.
func (k *keeping) publish(ctx context.Context, kept bool, packets ...Packet) error {
	entries := k.entries(make([]entry, 0, 1), kept, packets) // one needs no memory of its own
	if len(entries) == 1 {
		return k.driver.Append(ctx, entries[0].partition, entries[0].Draft)
	}
	results := make([]error, len(entries))
	var appends sync.WaitGroup
	for i, e := range entries {
		appends.Go(func() { results[i] = k.driver.Append(ctx, e.partition, e.Draft) })
	}
	appends.Wait()
	err := errs.Join(results)
	if err != nil && slices.Contains(results, nil) {
		err = errs.InPart(err)
	}
	return err
}

// entries appends an entry for each packet. Packets in one partition that have the same
// bytes, as those of a Send do, share an entry.
func (k *keeping) entries(entries []entry, kept bool, packets []Packet) []entry {
	var last [history.MaxPartitions]int // the last entry of each partition, counted from 1; 0 if there is none
	for i, p := range packets {
		partition := k.logs.partition(p.Topic)
		if n := last[partition]; n > 0 {
			if e := &entries[n-1]; len(e.Topics) < maxTopics && same(e.data, p.Data) {
				e.Topics = append(e.Topics, p.Topic)
				continue
			}
		}
		draft := store.Draft{Topics: make([]string, 1, min(maxTopics, len(packets)-i)), Unkept: !kept}
		draft.Topics[0] = p.Topic
		if n := len(entries); n > 0 && same(entries[n-1].data, p.Data) {
			draft.Body = entries[n-1].Body
		} else { // a copy, because a commit that was given up may still read it
			draft.Body = packet.Body(p.Data)
		}
		entries = append(entries, entry{draft, partition, p.Data})
		last[partition] = len(entries)
	}
	return entries
}

// same reports whether two slices are the same memory.
func same(a, b []byte) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

// pushPacket takes a packet of the Bus.
func (k *keeping) pushPacket(p Packet) {
	partition := k.logs.partition(p.Topic)
	if p.Topic == k.logs.fences[partition] {
		if end, number, err := packet.ParseFence(p.Data); err == nil {
			k.driver.Push(partition, driver.Event{Kind: driver.Fence, Number: number, End: end})
		}
		return
	}
	parsed, err := packet.Parse(p.Topic, p.Data)
	if err != nil { // it is reported when it is decoded
		parsed = history.Packet{Topic: p.Topic, Body: p.Data}
	}
	k.driver.Push(partition, driver.Event{Kind: driver.Packet, Packet: parsed})
}

// pushLink notes that the link of a partition is down, or that there is a new one,
// perhaps to another server. topics are the partition's, or nil for all partitions. There
// is always one, because the node's fences come on each link.
func (k *keeping) pushLink(kind driver.EventKind, topics []string) {
	k.logs.renew()
	for i := range k.logs.parts {
		if topics == nil || i == k.logs.partition(topics[0]) {
			k.driver.Push(i, driver.Event{Kind: kind})
		}
	}
}

// Deliver implements driver.Hub.
func (k *keeping) Deliver(partition int, p history.Packet) { k.take(&logged{p, partition}) }

// Gap implements driver.Hub.
func (k *keeping) Gap(_ int, since time.Time) { k.tell(since) }

// letter says what a device has to know of a message.
func letter(e *envelope) device.Letter {
	l := device.Letter{Except: e.filter.except}
	if e.copies {
		l.ID = e.sender + "." + strconv.FormatUint(e.id, 10)
	}
	return l
}

// A form is a message in the form for clients that can come back, made once for all of
// them. Only the owner uses it.
type form struct {
	body     []byte
	envelope envelope

	at     history.Point
	id     string
	framed deflate.Frame
}

// open decodes a body, unless it has done so just before.
func (m *form) open(k *keeping, body []byte) *envelope {
	if m.body == nil || !same(m.body, body) {
		e, err := k.decode(body)
		if err != nil || e.kind > kindDirect && e.kind != kindFenced {
			e = envelope{}
		}
		*m = form{body: body, envelope: e}
	}
	return &m.envelope
}

// key returns the key of a message, or nil if it has none.
func (m *form) key(f *device.Frame) *conflate.Key {
	key := m.envelope.key
	if key != nil && f.At.Epoch != 0 {
		key.Log = uint8(f.Partition + 1)
	}
	return key
}

// frame returns the WebSocket frames of a message, or nil if its body is malformed.
func (m *form) frame(k *keeping, f *device.Frame) *deflate.Frame {
	e := m.open(k, f.Body)
	if e.frame == nil {
		return nil
	}
	if m.framed.Plain == nil || m.at != f.At || m.id != f.ID {
		m.at, m.id, m.framed = f.At, f.ID, deflate.Frame{Plain: headed(&protocol.Frame{Frame: *f}, e.frame)}
	}
	return &m.framed
}

// unplace takes the positions out of a frame, and returns whether it is still of use.
func unplace(f *device.Frame) bool {
	switch f.Kind {
	case device.Message:
		f.At = history.Point{}
	case device.Welcome:
		f.Positions, f.Resumed = history.Positions{}, false
	case device.Mark:
		if f.Verdict == device.NoVerdict {
			return false
		}
		f.Verdict = device.Incomplete
	}
	return true
}

// sign returns the id of a connection in the form that its client is told. It is
// signed so that nobody can claim a connection of another user.
func (k *keeping) sign(user, id string) string {
	mac := hmac.New(sha256.New, k.logs.key)
	mac.Write([]byte(id + "\x00" + user))
	return id + "~" + base64.RawURLEncoding.EncodeToString(mac.Sum(nil)[:12])
}

// verify returns those of the ids that were signed for the user, without their
// signatures.
func (k *keeping) verify(user string, signed []string) (ids []string) {
	for _, s := range signed {
		id, _, _ := strings.Cut(s, "~")
		if hmac.Equal([]byte(k.sign(user, id)), []byte(s)) {
			ids = append(ids, id)
		}
	}
	return ids
}

// Forget removes what is kept for the users, for the groups or for everyone, for instance
// after an account was deleted. Others to whom such a message was sent, too, still get
// it. Devices that are connected have had what they were sent; one that comes back
// without having had all of it is told that something may be missing.
//
// Forget waits for SendTimeout at most, or until ctx is done. The error is ErrInvalid
// without a Retention, for a target with a filter, and for a Connection, for which
// nothing is kept. After any other error some of it may be gone.
func (h *Hub) Forget(ctx context.Context, t Target) error {
	if err := t.check(); err != nil {
		return err
	}
	f := t.filter()
	switch {
	case h.keeping == nil:
		return fmt.Errorf("%w: Forget: Config.Retention must be set", ErrInvalid)
	case t.kind == targetConnection:
		return fmt.Errorf("%w: target: Forget takes users, groups or everyone: nothing is kept for a Connection", ErrInvalid)
	case !f.empty():
		return fmt.Errorf("%w: target: Forget takes no Except, ExceptUser or On", ErrInvalid)
	}
	topics := []string{topicEveryone}
	if t.kind != targetEveryone {
		topics = t.topics()
	}
	ctx, release := h.sendEnds.Now().Bound(ctx)
	defer release()
	if err := h.keeping.change(ctx, h.keeping.driver.Forget, topics); err != nil {
		return fmt.Errorf("forget: %w", err)
	}
	return nil
}

// Position returns where the log is now. A client that connects with it (see PROTOCOL.md,
// herald.from) gets all messages that are sent after the call and kept. So a service
// first reads the position, and then the state that it gives to the client from its
// database: the client misses nothing in between. Position waits for SendTimeout at most,
// or until ctx is done. The error is ErrInvalid without a Retention, and ErrBusDown if
// the log does not answer, or while there is a node that keeps nothing, because no
// position would be right then.
func (h *Hub) Position(ctx context.Context) (string, error) {
	if h.keeping == nil {
		return "", fmt.Errorf("%w: Position: Config.Retention must be set", ErrInvalid)
	}
	ctx, release := h.sendEnds.Now().Bound(ctx)
	defer release()
	ends, err := h.keeping.driver.End(ctx)
	if plain := h.keeping.plain(); err == nil && plain != "" {
		err = fmt.Errorf("%w: node %s keeps nothing: it has no Retention, or a version without", ErrBusDown, plain)
	}
	if err != nil {
		return "", fmt.Errorf("position: %w", err)
	}
	text, _ := ends.AppendText(nil) // it never fails
	return string(text), nil
}
