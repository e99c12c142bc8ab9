// Package natsbus is a [herald.Bus] on core NATS.
//
//	bus, err := natsbus.New("nats://nats-1:4222,nats://nats-2:4222", nil)
//	…
//	hub, err := herald.New(herald.Config{Bus: bus, Registry: registry, …})
//
// A topic is the subject <prefix>.<topic>, in which characters that mean something to
// NATS are escaped as %XX. A Bus has two connections, one that publishes and one that
// is subscribed, so that neither incoming messages nor a server that cuts off a slow
// subscriber holds up what is published. nats.go opens them, with the options of the
// user; then the Bus speaks the protocol itself, because three things would break its
// promises: a reconnect that it notices late, a message that is dropped behind its
// back, and one that waits in a buffer after its Publish has returned an error.
//
// NATS delivers at most once. What is published while a Bus is not connected, or
// while two servers of a cluster do not hear each other, is lost to it. The first
// kind of loss lies between an EventDown and an EventRestored. A client of NATS
// cannot see the second kind; the Hub notices it by its heartbeats, and reports a
// gap.
package natsbus

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/errs"
	"github.com/heraldgo/herald/internal/inbox"
)

// Options configures a Bus. The zero value of each field has the default that
// its comment gives.
type Options struct {
	// Prefix begins every subject. It is one token or several, without
	// wildcards, of at most 200 bytes. Default "herald".
	Prefix string

	// NATS are the options of the connections: credentials, TLS, a dialer, more
	// servers, Name, Timeout (of one attempt), the order of the servers
	// (DontRandomize, IgnoreDiscoveredServers). The Bus itself decides how to
	// reconnect, ping, buffer and call back: options for these have no effect, nor
	// have NoEcho, Verbose and Pedantic. WebSocket is not supported.
	NATS []nats.Option

	// ProbeInterval and ProbeTimeout are those of [herald.Config]: each link is
	// proved healthy once an interval, and is dropped if an answer does not come
	// within ProbeTimeout. A negative interval switches proofs off. Defaults 1 s and
	// 5 s.
	ProbeInterval time.Duration
	ProbeTimeout  time.Duration
}

// withDefaults returns a copy with every field set; o may be nil.
func (o *Options) withDefaults() (Options, error) {
	var c Options
	if o != nil {
		c = *o
	}
	c.Prefix = cmp.Or(c.Prefix, "herald")
	c.ProbeInterval = cmp.Or(c.ProbeInterval, time.Second)
	c.ProbeTimeout = cmp.Or(c.ProbeTimeout, 5*time.Second)
	var faults []error
	if !validPrefix(c.Prefix) {
		faults = append(faults, fmt.Errorf("%w: Options.Prefix: %q: must be tokens with a dot between them, without '*', '>', a '$' at the beginning, "+
			"white space or control characters, and have at most %d bytes", herald.ErrInvalid, c.Prefix, maxPrefix))
	}
	if c.ProbeInterval >= 0 && c.ProbeInterval < time.Millisecond {
		faults = append(faults, fmt.Errorf("%w: Options.ProbeInterval: %v: must be at least 1ms, or negative for no proofs", herald.ErrInvalid, c.ProbeInterval))
	}
	if c.ProbeTimeout < time.Millisecond {
		faults = append(faults, fmt.Errorf("%w: Options.ProbeTimeout: %v: must be at least 1ms", herald.ErrInvalid, c.ProbeTimeout))
	}
	return c, errors.Join(faults...)
}

// Bounds of what waits for Receive. Beyond them packets are dropped, between
// an EventDown and an EventRestored.
const (
	inboxEvents = 1 << 18
	inboxBytes  = 64 << 20
)

// eventSize is about what an Event takes besides its bytes.
const eventSize = 128

var (
	// errInboxFull is why packets that nobody received were dropped.
	errInboxFull = errors.New("natsbus: Receive is called too slowly")

	// errReset is the reason of a gap that Reset made.
	errReset = errors.New("natsbus: bus was reset")
)

// A Bus is a [herald.Bus]; New makes one. All methods may be called at the
// same time, except Receive, which has one caller.
type Bus struct {
	prefix string // begins each subject; with the dot
	inbox  *inbox.Inbox[herald.Event]
	pub    *publisher
	sub    *subscriber

	cancel    context.CancelFunc
	running   sync.WaitGroup // run of sub, and proveLinks
	closeOnce sync.Once

	nonce atomic.Uint64 // the last probe's

	mu       sync.Mutex
	unproved error // why the last probe failed
}

var _ herald.Bus = (*Bus)(nil)

// New connects a Bus to the servers of urls, which are separated by commas, as for
// nats.Connect: nats:// or tls://, with a user and a password or a token if they are
// needed. opts may be nil. For a cluster one server is enough, because the Bus learns
// the others from it. With more, New succeeds even if one is down.
//
// New tries what the Bus needs. If NATS denies that, the error names what to allow.
// If no server could be reached, the error wraps [herald.ErrBusDown]. It waits at
// most for each server's Timeout, twice, and then for twice the ProbeTimeout.
func New(urls string, opts *Options) (*Bus, error) {
	options, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	dialer, err := newDialer(urls, options.NATS, options.ProbeTimeout)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	in := inbox.New(inbox.Config[herald.Event]{
		Size:     func(e herald.Event) int { return eventSize + len(e.Packet.Data) },
		MaxItems: inboxEvents,
		MaxBytes: inboxBytes,
		Restored: herald.Event{Kind: herald.EventRestored},
		Refusal:  herald.ErrReceiving,
	})
	prefix := options.Prefix + "."
	// No topic's subject is like the probe's: two digits follow an escape.
	sub := newSubscriber(ctx, dialer, in, prefix, prefix+"%!"+rand.Text())
	b := &Bus{
		prefix: prefix,
		inbox:  in,
		pub:    newPublisher(ctx, dialer, sub.server),
		sub:    sub,
		cancel: cancel,
	}
	if err := b.open(ctx, options); err != nil {
		b.Close()
		return nil, err
	}
	if options.ProbeInterval > 0 {
		b.running.Go(func() { b.proveLinks(ctx, options.ProbeInterval, options.ProbeTimeout) })
	}
	return b, nil
}

// open connects both links and tries what the Bus needs.
func (b *Bus) open(ctx context.Context, options Options) error {
	err := b.sub.connect()
	if err == nil {
		first := b.sub.uplink.Link()
		b.sub.proof = func(l *link) error { return b.proveNew(ctx, l, options.ProbeTimeout) }
		b.running.Go(b.sub.run)
		err = b.loop(ctx, first, 2*options.ProbeTimeout)
	}
	if err == nil {
		return nil
	}
	if refused, ok := errors.AsType[refusal](err); ok {
		return fmt.Errorf("natsbus: NATS denies what the Bus needs: allow this user to publish and to subscribe to %s.> : %w", options.Prefix, refused)
	}
	if errors.Is(err, errRefused) {
		return err
	}
	return fmt.Errorf("%w: %w", herald.ErrBusDown, err)
}

// Publish publishes packets and waits until the server has said that it has taken
// them: it answers a PING that follows them. Calls that come while others are under
// way go out together. If the link has broken it waits for an attempt to connect;
// after a failed one, until the backoff is over, it returns ErrBusDown at once. If a
// packet is larger than the server's max_payload, neither it nor those that would go
// out with it are published, and the error is ErrInvalid.
func (b *Bus) Publish(ctx context.Context, packets ...herald.Packet) error {
	for _, packet := range packets {
		if err := checkTopic(b.prefix, packet.Topic); err != nil {
			return fmt.Errorf("publish: %w", err)
		}
	}
	for sent := 0; sent < len(packets); {
		p := newPublication()
		for sent < len(packets) && p.packets < maxPublishItems && (p.packets == 0 || len(p.bytes) < maxPublishBytes) {
			p.add(b.prefix, packets[sent])
			sent++
		}
		first := sent == p.packets
		if err := b.pub.publish(ctx, p); err != nil {
			if !first {
				err = errs.InPart(err)
			}
			return fmt.Errorf("publish: %w", err)
		}
	}
	return nil
}

// Subscribe subscribes to topics and waits until the server has confirmed. While
// no server can be reached it waits for the next link. In a cluster the
// other servers hear of it a moment later.
func (b *Bus) Subscribe(ctx context.Context, topics ...string) error {
	if err := b.sub.change(ctx, subscribe, topics); err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	return nil
}

// Unsubscribe is the opposite of Subscribe, and waits in the same way.
func (b *Bus) Unsubscribe(ctx context.Context, topics ...string) error {
	if err := b.sub.change(ctx, unsubscribe, topics); err != nil {
		return fmt.Errorf("unsubscribe: %w", err)
	}
	return nil
}

// Receive returns the next event.
func (b *Bus) Receive(ctx context.Context) (herald.Event, error) { return b.inbox.Receive(ctx) }

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
		b.inbox.Close(herald.ErrClosed)
	})
	return nil
}
