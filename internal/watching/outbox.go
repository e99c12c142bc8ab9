package watching

import (
	"context"
	"sync"

	"github.com/heraldgo/herald/internal/wake"
)

// An Outbox publishes changes. Those that are lost leave holes, which watchers
// notice.
type Outbox struct {
	publish func(ctx context.Context, topic string, data []byte) error
	wake    wake.Signal

	mu   sync.Mutex
	list []Change
}

const (
	maxWaiting = 1 << 14  // changes that wait; more are dropped
	packetSize = 64 << 10 // bytes of a packet; its last change may exceed it
)

// NewOutbox returns an Outbox. publish publishes to those who watch a topic.
func NewOutbox(publish func(ctx context.Context, topic string, data []byte) error) *Outbox {
	return &Outbox{publish: publish, wake: wake.New()}
}

// Put adds changes to be published. It does not block.
func (o *Outbox) Put(changes []Change) {
	o.mu.Lock()
	o.list = append(o.list, changes[:min(len(changes), maxWaiting-len(o.list))]...)
	o.mu.Unlock()
	o.wake.Set()
}

// Run publishes until ctx is done.
func (o *Outbox) Run(ctx context.Context) {
	for {
		select {
		case <-o.wake:
			o.Flush(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// Flush publishes what has been Put so far.
func (o *Outbox) Flush(ctx context.Context) {
	o.mu.Lock()
	list := o.list
	o.list = nil
	o.mu.Unlock()
	byTopic := make(map[string][]byte)
	for _, c := range list {
		b := byTopic[c.Topic]
		if len(b) >= packetSize {
			o.publish(ctx, c.Topic, b)
			b = nil
		}
		if b == nil {
			b = []byte{version}
		}
		byTopic[c.Topic] = appendChange(b, c)
	}
	for topic, b := range byTopic {
		o.publish(ctx, topic, b)
	}
}
