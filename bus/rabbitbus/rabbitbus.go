// Package rabbitbus is a herald.Bus on RabbitMQ, 3.10 or later.
//
// A durable fanout exchange hands every message to every node: each has an exclusive
// queue, named by the server, that is bound to it and goes with the node's
// connection. A node drops packets of topics that it does not subscribe to, so the
// work for a message grows with the number of nodes.
//
// RabbitMQ keeps the order of what one channel publishes, but two queues may see what
// two channels publish in two orders. So messages do not go to the fanout exchange at
// once, but through one queue that puts them in order: it has no room, and the fanout
// exchange as its dead-letter exchange. It belongs to the connection of one node, and
// when that goes another node takes over.
package rabbitbus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/rabbitmq/amqp091-go"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/batch"
	"github.com/heraldgo/herald/internal/errs"
	"github.com/heraldgo/herald/internal/inbox"
)

// Options configures a Bus. The zero value of each field has the default that
// its comment gives.
type Options struct {
	// Exchange is the name of the fanout exchange, which is declared if it is
	// missing. Services with different names see nothing of each other. Default
	// "herald". There is a second exchange, whose name is that and ".order".
	Exchange string

	// Config is what amqp091.DialConfig takes besides the URL, for TLS, credentials
	// and whatever else the URL cannot say. Recovery must be nil: the Bus reconnects
	// by itself. Its Dial must have a timeout, for which Close waits. If neither it
	// nor the URL sets a heartbeat, it is 5 s.
	Config amqp091.Config

	// ProbeInterval and ProbeTimeout are those of [herald.Config]: once an interval
	// the Bus proves that what it publishes arrives. A link on which an answer does
	// not come within ProbeTimeout is dropped. A negative interval switches proofs
	// off. Defaults 1 s and 5 s.
	ProbeInterval time.Duration
	ProbeTimeout  time.Duration
}

// With defaultHeartbeat a link that hangs is noticed after some 8 s, even if the
// proofs of the Bus cannot tell.
const defaultHeartbeat = 5 * time.Second

// maxName is how long the name of an exchange may be, so that there is room for the
// second one's (AMQP 0-9-1: a shortstr has 255 bytes).
const maxName = 255 - len(orderSuffix)

// withDefaults returns a copy with every field set; o may be nil.
func (o *Options) withDefaults() (Options, error) {
	var c Options
	if o != nil {
		c = *o
	}
	c.Exchange = cmp.Or(c.Exchange, "herald")
	c.Config.Heartbeat = cmp.Or(c.Config.Heartbeat, defaultHeartbeat)
	c.ProbeInterval = cmp.Or(c.ProbeInterval, time.Second)
	c.ProbeTimeout = cmp.Or(c.ProbeTimeout, 5*time.Second)
	var faults []error
	if len(c.Exchange) > maxName || strings.HasPrefix(c.Exchange, "amq.") {
		faults = append(faults, fmt.Errorf("%w: Options.Exchange: %q: must have at most %d bytes and not begin with \"amq.\"",
			herald.ErrInvalid, c.Exchange, maxName))
	}
	if c.Config.Recovery != nil {
		faults = append(faults, fmt.Errorf("%w: Options.Config.Recovery: must be nil, for the Bus reconnects by itself", herald.ErrInvalid))
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

	eventSize = 128 // about what an Event takes besides its bytes
)

var (
	errInboxFull = errors.New("rabbitbus: Receive is called too slowly")
	errReset     = errors.New("rabbitbus: bus was reset")
)

// A Bus is a [herald.Bus] on RabbitMQ. It has two connections, one that
// publishes and one that consumes, because RabbitMQ stops reading from
// connections that publish while it is short of memory or disk.
type Bus struct {
	inbox *inbox.Inbox[herald.Event]
	pub   *publisher
	sub   *subscriber

	cancel    context.CancelFunc
	running   sync.WaitGroup // run of sub, and probe
	closeOnce sync.Once

	mu       sync.Mutex
	unproved error // why the last probe failed
}

var _ herald.Bus = (*Bus)(nil)

// New connects a Bus to the RabbitMQ at url, amqp://user:password@host:port/vhost or
// amqps://…, whose parameters are those of amqp091.ParseURI. opts may be nil. New
// tries all that the Bus needs. If RabbitMQ denies something, the error names what to
// allow. If RabbitMQ could not be reached, the error wraps [herald.ErrBusDown].
func New(url string, opts *Options) (*Bus, error) {
	options, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	dialer, err := newDialer(url, options)
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
	pub := newPublisher(ctx, dialer)
	b := &Bus{inbox: in, pub: pub, sub: newSubscriber(ctx, dialer, in, pub.id), cancel: cancel}
	// Proofs may be off here, and not on other nodes.
	b.sub.settle = 2 * max(options.ProbeInterval, 100*time.Millisecond)
	if err := b.open(ctx, options); err != nil {
		b.Close()
		return nil, err
	}
	if options.ProbeInterval > 0 {
		b.running.Go(func() { b.probe(ctx, options.ProbeInterval, options.ProbeTimeout) })
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
		err = b.loop(ctx, first, options.ProbeTimeout, func() {})
	}
	if err == nil {
		return nil
	}
	return refusal(err, options.Exchange)
}

// refusal says what to do about err, which ended New.
func refusal(err error, exchange string) error {
	refused, ok := errors.AsType[*amqp091.Error](err)
	switch {
	case !ok || !refused.Server && refused != amqp091.ErrCredentials && refused != amqp091.ErrSASL,
		refused.Code == amqp091.NotAllowed && strings.Contains(refused.Reason, " limit "): // there may be room at the next attempt
		return fmt.Errorf("%w: %w", herald.ErrBusDown, err)
	case refused.Code == amqp091.PreconditionFailed:
		return fmt.Errorf("%w: Options.Exchange: %q: there is an exchange of this name, or with %q behind it, that is not a plain durable fanout exchange: %w",
			herald.ErrInvalid, exchange, orderSuffix, refused)
	case refused.Code == amqp091.AccessRefused && strings.Contains(refused.Reason, "access to "):
		return fmt.Errorf("rabbitbus: RabbitMQ denies what the Bus needs: allow configure, write and read for the names %s, %s%s and amq.gen-* "+
			"(rabbitmqctl set_permissions): %w", exchange, exchange, orderSuffix, refused)
	}
	return fmt.Errorf("rabbitbus: RabbitMQ refuses the connection: %w", refused)
}

// Publish publishes packets and waits for RabbitMQ's confirmation. Calls that
// come while others are under way go out together. If the link has broken
// it waits for an attempt to connect; after a failed one, until the backoff
// is over, and while RabbitMQ blocks connections that publish, it returns
// herald.ErrBusDown at once.
func (b *Bus) Publish(ctx context.Context, packets ...herald.Packet) error {
	for sent := 0; sent < len(packets); {
		p := newPublication()
		first := sent == 0
		for sent < len(packets) && p.fits(packets[sent]) {
			p.add(packets[sent])
			sent++
		}
		err := b.pub.publish(ctx, p)
		if !errors.Is(err, batch.ErrTaken) {
			p.free()
		}
		if err != nil {
			if !first {
				err = errs.InPart(err)
			}
			return fmt.Errorf("publish: %w", err)
		}
	}
	return nil
}

// Subscribe subscribes to topics. It asks nothing of RabbitMQ, which hands
// over all topics, but waits for the link to be up.
func (b *Bus) Subscribe(ctx context.Context, topics ...string) error {
	if err := b.sub.subscribe(ctx, topics); err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	return nil
}

// Unsubscribe is the opposite of Subscribe. It does not wait.
func (b *Bus) Unsubscribe(ctx context.Context, topics ...string) error {
	if err := b.sub.unsubscribe(ctx, topics); err != nil {
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

// Health returns nil while both links are up, not blocked, and proved healthy, and
// otherwise the reason.
func (b *Bus) Health() error {
	b.mu.Lock()
	err := b.unproved
	b.mu.Unlock()
	return cmp.Or(b.sub.uplink.Health(), b.pub.health(), err)
}

// Close closes both links and waits for the Bus' goroutines. It says goodbye to
// RabbitMQ, for which it waits two seconds at most.
func (b *Bus) Close() error {
	b.closeOnce.Do(func() {
		b.cancel()
		var leaving sync.WaitGroup
		leaving.Go(b.pub.leave)
		leaving.Go(b.sub.leave)
		leaving.Wait()
		b.running.Wait()
		b.pub.close()
		b.sub.close()
		b.inbox.Close(herald.ErrClosed)
	})
	return nil
}
