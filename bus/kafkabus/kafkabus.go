// Package kafkabus is a [herald.Bus] on one topic of Apache Kafka, or of what
// speaks its protocol. It uses github.com/twmb/franz-go.
//
//	bus, err := kafkabus.New("kafka-1:9092,kafka-2:9092", nil)
//	hub, err := herald.New(herald.Config{Bus: bus, Registry: herald.NewRedisRegistry(rdb)})
//
// Every packet is a record of that topic. Its key is the herald topic, whose hash
// says which partition it goes to, so that packets of one herald topic keep their
// order. Every node reads every partition, without a consumer group and from the
// moment of New on, and drops packets of topics that it does not subscribe to. So a
// node's work grows with what all nodes publish together.
//
// The log outlives links and brokers, and each node knows how far it has read, so
// after an interruption it goes on there. So most gaps that the Bus reports, between
// an EventDown and an EventRestored, turn out to have lost nothing. Only what Kafka
// itself no longer has is lost: what its retention removed before it was read, what a
// broker lost that was the only replica in sync, and a topic that was deleted.
//
// If partitions are added, topics move to other partitions. For a second
// or so, until every node has found out, packets of one topic may be in two
// partitions, and their order is not kept across that moment.
package kafkabus

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/inbox"
)

// A Bus is a [herald.Bus] on a Kafka topic, of Kafka 2.8 or later.
//
// It has two Kafka clients of its own, one that publishes and one that reads,
// with a few connections to each broker.
type Bus struct {
	topic  string // Kafka's topic
	inbox  *inbox.Inbox[herald.Event]
	state  *state
	pub    *publisher
	reader *reader

	ctx       context.Context // ends at Close
	cancel    context.CancelFunc
	running   sync.WaitGroup // the reader and probe
	closeOnce sync.Once

	turn int // partition of the last probe; prove's own
}

var _ herald.Bus = (*Bus)(nil)

// New connects a Bus to the brokers with the given addresses, which are asked for all
// others: "host:port,host:port", or "kafka://host:port,host:port/topic". opts may be
// nil.
//
// New tries all that the Bus needs. If Kafka denies something, the error names what
// to allow. If Kafka could not be reached, the error wraps [herald.ErrBusDown]. A
// topic that is missing is an error, unless Options.Create is set.
func New(brokers string, opts *Options) (*Bus, error) {
	seeds, topic, err := parseURL(brokers)
	if err != nil {
		return nil, err
	}
	options, err := opts.withDefaults(topic)
	if err != nil {
		return nil, err
	}
	b := &Bus{topic: options.Topic, inbox: newInbox()}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	b.state = &state{inbox: b.inbox, wake: make(chan struct{}, 1), proved: time.Now()}
	b.pub, err = newPublisher(b.ctx, &options, seeds)
	if err == nil {
		b.reader, err = newReader(&options, seeds, b)
	}
	if err != nil {
		b.Close()
		return nil, fmt.Errorf("%w: Options.Opts: %w", herald.ErrInvalid, err)
	}
	if err := b.open(&options); err != nil {
		b.Close()
		return nil, err
	}
	b.running.Go(func() { b.probe(b.ctx, options.ProbeInterval, options.ProbeTimeout) })
	return b, nil
}

// open finds the topic, begins to read, and tries what the Bus needs.
func (b *Bus) open(o *Options) error {
	ctx, cancel := context.WithTimeout(b.ctx, 2*o.ProbeTimeout)
	defer cancel()
	client := b.pub.current().client
	l, ends, err := find(ctx, client, o)
	if err != nil {
		return explain(o.Topic, err)
	}
	b.pub.maxBatch.Store(maxBatch(ctx, client, o.Topic))
	b.reader.start(l, ends)
	b.running.Go(func() { b.reader.run(b.ctx) })
	if err := b.prove(ctx, o.ProbeTimeout); err != nil {
		return explain(o.Topic, err)
	}
	return nil
}

// Publish publishes packets, each as a record, and waits until Kafka has
// taken them: all replicas in sync, as the topic's min.insync.replicas
// says. Calls that come while others are under way go out together. While
// the last proof says that Kafka, or the leader of a partition that a packet
// belongs to, cannot be reached, it returns ErrBusDown at once.
//
// A packet that is larger than the topic's max.message.bytes is refused.
func (b *Bus) Publish(ctx context.Context, packets ...herald.Packet) error {
	if err := b.pub.publish(ctx, packets); err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	return nil
}

// Subscribe subscribes to topics. It asks nobody, because everything that is
// published has been read since New. Packets of these topics are handed over from now
// on.
func (b *Bus) Subscribe(ctx context.Context, topics ...string) error {
	return b.subscribe(ctx, "subscribe", topics, true)
}

// Unsubscribe is the opposite of Subscribe.
func (b *Bus) Unsubscribe(ctx context.Context, topics ...string) error {
	return b.subscribe(ctx, "unsubscribe", topics, false)
}

func (b *Bus) subscribe(ctx context.Context, what string, topics []string, on bool) error {
	if b.ctx.Err() != nil {
		return fmt.Errorf("%s: %w", what, herald.ErrClosed)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	b.reader.subscribe(topics, on)
	return nil
}

// Receive returns the next event.
func (b *Bus) Receive(ctx context.Context) (herald.Event, error) { return b.inbox.Receive(ctx) }

// Reset drops the connections of both clients.
func (b *Bus) Reset() {
	if b.ctx.Err() != nil {
		return
	}
	b.state.fail(errReset)
	b.reader.restart(errReset)
	b.pub.renew(b.pub.current())
	b.state.hurry()
}

// Health returns nil while every partition is proved to carry packets, and otherwise
// the reason.
func (b *Bus) Health() error {
	if b.ctx.Err() != nil {
		return herald.ErrClosed
	}
	return b.state.health()
}

// Close closes the connections and waits for the Bus' goroutines.
func (b *Bus) Close() error {
	b.closeOnce.Do(func() {
		b.cancel()
		if b.pub != nil { // else New has failed
			b.pub.close()
		}
		b.running.Wait()
		b.inbox.Close(herald.ErrClosed)
	})
	return nil
}
