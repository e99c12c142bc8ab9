package kafkabus

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/errs"
)

// A link is one Kafka client that publishes, and asks the cluster whatever is asked.
// kgo batches what comes while requests are under way, and if an answer was lost it
// sends the batch again, under the same sequence number, so that the broker takes it
// once.
type link struct {
	client *kgo.Client

	wrote  atomic.Uint64 // produce requests of which at least a part went out
	lost   atomic.Uint64 // those whose answer did not come
	broken atomic.Bool   // the cluster will take nothing more from this producer

	mu   sync.Mutex
	open map[net.Conn]struct{} // connections to brokers, but for those to seeds
}

// OnBrokerConnect counts connections. kgo calls it before it writes a request.
func (l *link) OnBrokerConnect(broker kgo.BrokerMetadata, _ time.Duration, conn net.Conn, err error) {
	if err == nil && broker.NodeID >= 0 {
		l.mu.Lock()
		l.open[conn] = struct{}{}
		l.mu.Unlock()
	}
}

// OnBrokerDisconnect is the opposite of OnBrokerConnect.
func (l *link) OnBrokerDisconnect(_ kgo.BrokerMetadata, conn net.Conn) {
	l.mu.Lock()
	delete(l.open, conn)
	l.mu.Unlock()
}

// idle reports whether nothing has been written since the count of requests was
// wrote, and nothing is being written.
func (l *link) idle(wrote uint64) bool {
	l.mu.Lock()
	open := len(l.open)
	l.mu.Unlock()
	return open == 0 && l.wrote.Load() == wrote
}

// OnBrokerWrite counts produce requests. kgo calls it before it reads an answer.
func (l *link) OnBrokerWrite(_ kgo.BrokerMetadata, key int16, written int, _, _ time.Duration, _ error) {
	if key == produceKey && written > 0 {
		l.wrote.Add(1)
	}
}

// OnBrokerE2E counts produce requests without an answer.
func (l *link) OnBrokerE2E(_ kgo.BrokerMetadata, key int16, e2e kgo.BrokerE2E) {
	if key == produceKey && e2e.Err() != nil {
		l.lost.Add(1)
	}
}

// Keys of the Kafka protocol.
const (
	produceKey = 0
	fetchKey   = 1
)

// A publisher owns the present link, and replaces it.
type publisher struct {
	ctx   context.Context // ends at Close
	topic string          // Kafka's topic
	opts  []kgo.Opt

	maxBatch atomic.Int32           // bytes of a batch
	outage   atomic.Pointer[outage] // as of the last proof; nil while all is well

	mu      sync.Mutex
	link    *link
	closed  bool
	closing sync.WaitGroup // links that were replaced
}

// An outage is what the last proof could not reach.
type outage struct {
	all        error         // no broker could be reached, or there is no topic
	partitions map[int]error // those whose leaders could not be reached, and why
	count      int           // how many partitions there are
}

func newPublisher(ctx context.Context, o *Options, seeds []string) (*publisher, error) {
	p := &publisher{ctx: ctx, topic: o.Topic}
	p.maxBatch.Store(defaultMaxBatch)
	p.opts = o.clientOpts(seeds,
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.ProducerLinger(0),
		kgo.RecordPartitioner(partitioner{}),
		kgo.ProducerBatchMaxBytesFn(func(string) int32 { return p.maxBatch.Load() }),
		kgo.MaxBufferedRecords(1<<20),
		kgo.ProduceRequestTimeout(o.ProbeTimeout/2),
		// A record whose time is over is never sent later: not one that was
		// never sent, nor one whose answer did not come.
		kgo.RecordDeliveryTimeout(o.ProbeTimeout),
		kgo.AllowIdempotentProduceCancellation(),
		// A broker that has forgotten the producer may have taken the batch
		// before that. Sent under a new number it could be taken twice.
		kgo.StopProducerOnDataLossDetected(),
	)
	var err error
	if p.link, err = p.open(); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *publisher) open() (*link, error) {
	l := &link{open: make(map[net.Conn]struct{})}
	client, err := newClient(append(p.opts[:len(p.opts):len(p.opts)], kgo.WithHooks(l))...)
	if err != nil {
		return nil, err
	}
	l.client = client
	return l, nil
}

// current returns the present link.
func (p *publisher) current() *link {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.link
}

// working returns the present link, and a new one if that is broken.
func (p *publisher) working() *link {
	l := p.current()
	if l.broken.Load() {
		p.renew(l)
		l = p.current()
	}
	return l
}

// renew replaces old, unless that has been done. What is under way on it
// fails. It does not block.
func (p *publisher) renew(old *link) {
	l, err := p.open()
	if err != nil {
		return // not with options that have opened one before
	}
	p.mu.Lock()
	if p.closed || p.link != old {
		old = l
	} else {
		p.link = l
	}
	if !p.closed {
		p.closing.Go(old.client.Close)
	}
	closed := p.closed
	p.mu.Unlock()
	if closed {
		l.client.Close()
	}
}

// close closes every link. Publishes under way fail.
func (p *publisher) close() {
	p.mu.Lock()
	p.closed = true
	l := p.link
	p.mu.Unlock()
	l.client.Close()
	p.closing.Wait()
}

// note marks the link as broken if err says so.
func (l *link) note(err error) {
	for _, fatal := range []error{kerr.OutOfOrderSequenceNumber, kerr.UnknownProducerID,
		kerr.InvalidProducerIDMapping, kerr.InvalidProducerEpoch, kerr.ProducerFenced} {
		if errors.Is(err, fatal) {
			l.broken.Store(true)
		}
	}
}

// publish publishes packets, some together, one lot after the other.
func (p *publisher) publish(ctx context.Context, packets []herald.Packet) error {
	for first := true; len(packets) > 0; first = false {
		what := publications.Get().(*publication)
		packets = what.fill(p.topic, packets)
		if err := p.send(ctx, what); err != nil {
			if !first {
				err = errs.InPart(err)
			}
			return err
		}
	}
	return nil
}

// send sends what was filled, waits for the outcome, and owns what.
func (p *publisher) send(ctx context.Context, what *publication) error {
	if err := p.refuse(ctx, what.records); err != nil {
		what.recycle()
		return err
	}
	l := p.working()
	what.link, what.wrote, what.lost = l, l.wrote.Load(), l.lost.Load()
	what.waiting, what.failed, what.unsure, what.idle, what.err = len(what.records), 0, false, false, nil
	for i := range what.records {
		// Not with ctx: kgo fails a whole batch if its first record's
		// context ends, and the rest of it is other callers'.
		l.client.TryProduce(context.Background(), &what.records[i], what.promise)
	}
	var cause error
	select {
	case <-what.done:
		err := what.outcome()
		if err == nil { // else kgo may still look at the records
			what.recycle()
		}
		return err
	case <-ctx.Done():
		cause = ctx.Err()
	case <-p.ctx.Done():
		cause = herald.ErrClosed
	}
	return fmt.Errorf("%w: %w", herald.ErrUnknown, cause)
}

// refuse returns why nothing is handed over, or nil.
func (p *publisher) refuse(ctx context.Context, records []kgo.Record) error {
	if p.ctx.Err() != nil {
		return herald.ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	out := p.outage.Load()
	if out == nil {
		return nil
	}
	if out.all != nil {
		return fmt.Errorf("%w: %w", herald.ErrBusDown, out.all)
	}
	for i := range records {
		n := partitioner{}.Partition(&records[i], out.count)
		if err := out.partitions[n]; err != nil {
			return fmt.Errorf("%w: partition %d: %w", herald.ErrBusDown, n, err)
		}
	}
	return nil
}

// A probed is the outcome of a probe.
type probed struct {
	partition int
	offset    int64
	err       error
}

// probe publishes a record without a packet to a partition, or another one
// if the link has not heard of that yet.
func (p *publisher) probe(partition int) <-chan probed {
	result := make(chan probed, 1)
	l := p.current()
	record := &kgo.Record{Topic: p.topic, Partition: int32(partition), Headers: []kgo.RecordHeader{{Key: probeHeader}}}
	l.client.TryProduce(context.Background(), record, func(r *kgo.Record, err error) {
		if err != nil {
			l.note(err)
			err = fmt.Errorf("publish to partition %d of topic %s: %w", r.Partition, p.topic, err)
		}
		result <- probed{int(r.Partition), r.Offset, err}
	})
	return result
}
