package kafkabus

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kgo"
)

// A session reads with one Kafka client until its context ends.
type session struct {
	client *kgo.Client
	ctx    context.Context
	end    context.CancelCauseFunc
	state  *state
}

// OnBrokerE2E reports a fetch without an answer: the link has broken. The next fetch
// goes on where this one stopped. kgo calls OnBrokerE2E before it sends that.
func (s *session) OnBrokerE2E(broker kgo.BrokerMetadata, key int16, e2e kgo.BrokerE2E) {
	err := e2e.Err()
	if key != fetchKey || err == nil || s.ctx.Err() != nil || errors.Is(err, context.Canceled) {
		return
	}
	s.state.fault(fmt.Errorf("read from Kafka broker %d: %w", broker.NodeID, err))
}

// open starts a session at the places.
func (r *reader) open(ctx context.Context) (*session, error) {
	if err := r.find(ctx); err != nil {
		return nil, err
	}
	s := &session{state: r.state}
	s.ctx, s.end = context.WithCancelCause(ctx)
	offsets, err := r.set(s)
	if err != nil {
		s.end(err)
		return nil, err
	}
	client, err := newClient(append(r.opts[:len(r.opts):len(r.opts)],
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{r.topic: offsets}),
		kgo.WithHooks(s),
		// So that Close does not wait for a broker that hangs, to end a fetch
		// session that the broker forgets by itself.
		kgo.WithContext(s.ctx),
	)...)
	if err != nil {
		s.end(err)
		return nil, err
	}
	s.client = client
	return s, nil
}

// set makes s the present session, and returns where it is to start. With
// the epoch kgo asks the leader whether the log is still the one that was
// read, and finds where it was cut off. It is an error if adopt has come
// between find and set, and there are places to be found.
func (r *reader) set(s *session) (map[int32]kgo.Offset, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if slices.ContainsFunc(r.places, place.isLost) {
		return nil, errLayout
	}
	r.session = s
	offsets := make(map[int32]kgo.Offset, len(r.places))
	for i, p := range r.places {
		offsets[int32(i)] = kgo.NewOffset().At(p.next).WithEpoch(p.epoch)
	}
	return offsets, nil
}
