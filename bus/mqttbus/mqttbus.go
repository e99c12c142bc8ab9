// Package mqttbus is a [herald.Bus] on an MQTT 5 broker.
//
//	bus, err := mqttbus.New("mqtt://user:password@host:1883", nil)
//	hub, err := herald.New(herald.Config{Bus: bus, Registry: …})
//
// Every topic of herald is an MQTT topic, <prefix>/<topic>, so that a node
// hears only what it follows. Nothing is retained, and no session outlives its
// connection: a node that was away gets nothing of what was sent meanwhile, and
// reports that as a gap.
package mqttbus

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/errs"
)

// Options configures a [Bus]. The zero value of each field has the default
// that its comment gives.
type Options struct {
	// Prefix begins the names of all MQTT topics, before a '/'. Services that
	// share a broker and must not hear each other have one each. It is at most
	// 1000 bytes of UTF-8 without '+', '#', '%' and control characters, and does not
	// begin with '$'. Default "herald".
	Prefix string

	// QoS is the quality of service of what is published and subscribed, 0
	// or 1. Either way a Publish that returned nil was taken by the broker,
	// nothing comes twice, and the order is kept. With 1 the broker acknowledges
	// each packet, may say why it refuses one, and queues for a slow node as
	// many as it is configured to; with 0 it acknowledges a batch, and drops what
	// its permissions deny without a word. Default 0.
	QoS byte

	// TLS is used with mqtts. It is cloned. Its ServerName defaults to the host of
	// the URL. Default: the system's roots.
	TLS *tls.Config

	// ProbeInterval and ProbeTimeout are those of [herald.Config]: each link to the
	// broker is proved healthy once an interval, and is dropped if an answer does not
	// come within ProbeTimeout. A negative interval switches proofs off. Defaults 1 s
	// and 5 s.
	ProbeInterval time.Duration
	ProbeTimeout  time.Duration
}

// A Bus is a [herald.Bus] on an MQTT broker. It has two connections, one that
// publishes and one that is subscribed.
type Bus struct {
	prefix string
	qos    byte
	pub    *publisher
	sub    *subscriber

	cancel    context.CancelFunc
	running   sync.WaitGroup // run of sub, and probe
	closeOnce sync.Once

	mu       sync.Mutex
	unproved error // why the last probe failed
}

var _ herald.Bus = (*Bus)(nil)

// New connects a Bus to the broker at url: mqtt://host:port, or mqtts:// for TLS,
// with a user and a password before the host if need be. The ports default to 1883
// and 8883. opts may be nil. New tries all that the Bus needs. If the broker denies
// something, the error names what to allow. If the broker could not be reached, the
// error wraps [herald.ErrBusDown].
func New(url string, opts *Options) (*Bus, error) {
	options, err := opts.withDefaults()
	d, faulty := newDialer(url, &options)
	if err = errors.Join(err, faulty); err != nil {
		return nil, err
	}
	d.keepAlive = keepAlive(options.ProbeInterval, options.ProbeTimeout)
	ctx, cancel := context.WithCancel(context.Background())
	var id [8]byte
	rand.Read(id[:])
	b := &Bus{
		prefix: options.Prefix,
		qos:    options.QoS,
		pub:    newPublisher(ctx, d, options.QoS, binary.BigEndian.Uint64(id[:])),
		sub:    newSubscriber(ctx, d, options.QoS, options.Prefix, options.Prefix+"/"+private+rand.Text()),
		cancel: cancel,
	}
	if err := b.open(ctx, options); err != nil {
		b.Close()
		return nil, err
	}
	b.running.Go(func() { b.probe(ctx, options.ProbeInterval, options.ProbeTimeout) })
	return b, nil
}

// open connects both links and tries what the Bus needs.
func (b *Bus) open(ctx context.Context, options Options) error {
	err := b.sub.connect()
	if err == nil {
		b.sub.proof = func(l *link) error { return b.proveNew(ctx, l, options.ProbeTimeout) }
		b.running.Go(b.sub.run)
		err = b.pub.connect()
	}
	if err == nil {
		err = b.try(ctx, options)
	}
	if err == nil {
		return nil
	}
	r, refused := errors.AsType[*refusal](err)
	switch {
	case refused && r.denied() && r.what != "CONNECT" || errors.Is(err, errDeaf):
		return fmt.Errorf("mqttbus: the broker denies what the Bus needs: allow to publish and to subscribe to %s/# "+
			"(mosquitto: topic readwrite %s/#): %w", b.prefix, b.prefix, err)
	case refused:
		return fmt.Errorf("mqttbus: the broker refuses the connection: %w", r)
	}
	if errors.Is(err, herald.ErrBusDown) || errors.Is(err, herald.ErrInvalid) {
		return err
	}
	return fmt.Errorf("%w: %w", herald.ErrBusDown, err)
}

// try publishes a probe and awaits it. It uses QoS 1 if the broker knows that,
// because at QoS 0 a broker does not say that it denies something.
func (b *Bus) try(ctx context.Context, options Options) error {
	link, _ := b.pub.state()
	if link.limits.qos < b.qos {
		return fmt.Errorf("%w: Options.QoS: %d: the broker knows only %d", herald.ErrInvalid, b.qos, link.limits.qos)
	}
	if link.limits.qos > 0 {
		var p publication
		p.addProbe(1, b.sub.probe, b.sub.clock())
		p.bytes[p.parts[0].id+1] = 1
		answers := []answer{{kind: packets.PUBACK}}
		if _, err := link.do(p.bytes, answers); err != nil {
			return err
		}
		if code := answers[0].code; code >= 0x80 {
			puback := packets.Puback{ReasonCode: code}
			return &refusal{"PUBLISH", code, puback.Reason()}
		}
	}
	_, err := b.loop(ctx, b.sub.uplink.Link(), time.Second, options.ProbeTimeout)
	return err
}

// keepAlive returns the seconds after which a broker may think us dead. The broker
// waits half as long again (MQTT 5.0, section 3.1.2.10).
func keepAlive(tick, timeout time.Duration) uint16 {
	if tick >= off {
		return 0
	}
	return uint16(min(math.Ceil((tick + timeout).Seconds()), math.MaxUint16))
}

// maxPublishItems and maxPublishBytes are how much of a large call of Publish goes
// out together.
const (
	maxPublishItems = 1024
	maxPublishBytes = 1 << 20
)

// Publish publishes packets and waits until the broker has taken them. Calls that
// come while others are under way go out together. If the link has broken it waits
// for an attempt to connect; after a failed one, until the backoff is over, it
// returns ErrBusDown at once. If a packet is larger than the broker takes, the whole
// call is refused.
func (b *Bus) Publish(ctx context.Context, packets ...herald.Packet) error {
	limits := b.pub.lastLimits()
	var name []byte
	for _, p := range packets {
		name = appendTopicName(name[:0], b.prefix, p.Topic)
		_, size := publishSize(b.qos, len(name), stampSize+len(p.Data))
		if err := cmp.Or(checkTopicName(len(name)), checkSize(size, limits)); err != nil {
			return fmt.Errorf("publish: %w", err)
		}
	}
	for sent := 0; sent < len(packets); {
		p := newPublication()
		for sent < len(packets) && len(p.parts) < maxPublishItems && (len(p.parts) == 0 || len(p.bytes) < maxPublishBytes) {
			name = appendTopicName(name[:0], b.prefix, packets[sent].Topic)
			p.add(b.qos, name, packets[sent])
			sent++
		}
		first := sent == len(p.parts)
		if err := b.pub.publish(ctx, p); err != nil {
			if !first {
				err = errs.InPart(err)
			}
			return fmt.Errorf("publish: %w", err)
		}
	}
	return nil
}

// Subscribe subscribes to topics and waits for the confirmations. While the
// broker cannot be reached it waits for the next link.
func (b *Bus) Subscribe(ctx context.Context, topics ...string) error {
	if err := b.sub.change(ctx, packets.SUBSCRIBE, topics); err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	return nil
}

// Unsubscribe is the opposite of Subscribe, and waits in the same way.
func (b *Bus) Unsubscribe(ctx context.Context, topics ...string) error {
	if err := b.sub.change(ctx, packets.UNSUBSCRIBE, topics); err != nil {
		return fmt.Errorf("unsubscribe: %w", err)
	}
	return nil
}

// Receive returns the next event.
func (b *Bus) Receive(ctx context.Context) (herald.Event, error) { return b.sub.inbox.Receive(ctx) }

// errReset is the reason of a gap that Reset made.
var errReset = errors.New("mqttbus: bus was reset")

// Reset drops both links.
func (b *Bus) Reset() { b.drop(errReset) }

func (b *Bus) drop(why error) {
	b.sub.drop(why)
	b.pub.drop(why)
}

// Health returns nil while both links are up and proved healthy, and otherwise the
// reason.
func (b *Bus) Health() error {
	b.mu.Lock()
	err := b.unproved
	b.mu.Unlock()
	return cmp.Or(b.sub.uplink.Health(), b.pub.health(), err)
}

// Close closes both links and waits for the Bus' goroutines.
func (b *Bus) Close() error {
	b.closeOnce.Do(func() {
		b.cancel()
		b.drop(herald.ErrClosed)
		b.running.Wait()
		b.pub.close()
		b.sub.close()
		b.sub.inbox.Close(herald.ErrClosed)
	})
	return nil
}
