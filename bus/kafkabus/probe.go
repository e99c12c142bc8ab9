package kafkabus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/heraldgo/herald"
)

// probe proves at every tick, and after every fault, that the Bus is well,
// until ctx ends.
func (b *Bus) probe(ctx context.Context, tick, timeout time.Duration) {
	for wait := tick; ; {
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-b.state.wake:
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
			return
		}
		wait = tick
		if b.prove(ctx, timeout) != nil {
			wait = min(tick, backoffMax)
		}
	}
}

// prove asks every partition's leader for the end of its log, and waits until
// all has been read up to there: what was published before has then been
// handed over. The log of one partition, another one each time, ends with a
// record that was published for this, so that a dead link does not pass for
// a quiet one.
func (b *Bus) prove(ctx context.Context, timeout time.Duration) error {
	start, faults := time.Now(), b.state.count()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	l, err := b.survey(ctx)
	if err == nil {
		var unproved error
		if unproved, err = b.loop(ctx, l.partitions); err == nil {
			b.state.proven(start, faults, unproved)
			return unproved
		}
	}
	if b.ctx.Err() != nil {
		return err
	}
	if errors.Is(err, errDeaf) {
		if cause := b.state.health(); cause != nil && !errors.Is(cause, errDeaf) {
			err = fmt.Errorf("%w: %w", err, cause)
		}
		b.reader.restart(err)
	}
	b.state.fail(err)
	return err
}

// survey asks what the topic is like, and turns to another one if it was
// created again.
func (b *Bus) survey(ctx context.Context) (layout, error) {
	link := b.pub.working()
	l, err := describe(ctx, link.client, b.topic)
	if err != nil {
		b.pub.outage.Store(&outage{all: err})
		return l, err
	}
	what, err := b.reader.compare(l)
	switch what {
	case recreated:
		b.state.fault(errRecreated) // before anything of the new topic is read
		b.reader.adopt(l, what)
		b.pub.renew(link)
		err = errRecreated
	case grown:
		b.reader.adopt(l, what)
		link.client.ForceMetadataRefresh()
	}
	return l, err
}

// loop proves that everything has been read. unproved says why the probe was
// not published.
func (b *Bus) loop(ctx context.Context, partitions int) (unproved, err error) {
	link := b.pub.current()
	b.turn = (b.turn + 1) % partitions
	probe := b.pub.probe(b.turn)
	ends, failed := listOffsets(ctx, link.client, b.topic, partitions, atLatest)
	if len(failed) > 0 {
		b.pub.outage.Store(&outage{partitions: failed, count: partitions})
		return nil, partitionsError(b.topic, failed)
	}
	b.pub.outage.Store(nil)
	if err := b.reader.await(ctx, ends); err != nil {
		return nil, err
	}
	select {
	case p := <-probe:
		if p.err != nil {
			return p.err, nil
		}
		clear(ends)
		ends[p.partition] = p.offset + 1
		return nil, b.reader.await(ctx, ends)
	case <-ctx.Done():
		return fmt.Errorf("publish to partition %d of topic %s: %w", b.turn, b.topic, ctx.Err()), nil
	}
}

// explain adds to an error of New what Kafka must allow, or that it could not be
// reached.
func explain(topic string, err error) error {
	const allow = "herald: Kafka denies what the Bus needs: allow"
	switch {
	case errors.Is(err, kerr.TopicAuthorizationFailed):
		return fmt.Errorf("%s READ, WRITE and DESCRIBE on topic %s, and CREATE where New is to create it "+
			"(kafka-acls --add --allow-principal User:<user> --operation Read --operation Write --topic %s): %w", allow, topic, topic, err)
	case errors.Is(err, kerr.ClusterAuthorizationFailed):
		return fmt.Errorf("%s IDEMPOTENT_WRITE on the cluster, before Kafka 3.0, and CREATE where New is to create the topic "+
			"(kafka-acls --add --allow-principal User:<user> --operation IdempotentWrite --cluster): %w", allow, err)
	case errors.Is(err, kerr.SaslAuthenticationFailed), errors.Is(err, kerr.UnsupportedSaslMechanism), errors.Is(err, kerr.IllegalSaslState):
		return fmt.Errorf("herald: Kafka refuses the connection: %w", err)
	}
	if _, told := errors.AsType[*kerr.Error](err); told {
		return fmt.Errorf("herald: Kafka: %w", err)
	}
	return fmt.Errorf("%w: %w", herald.ErrBusDown, err)
}
