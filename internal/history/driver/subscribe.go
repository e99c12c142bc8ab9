package driver

import (
	"context"

	"github.com/heraldgo/herald/internal/history/node"
)

// A follower is a call of Subscribe that is held back.
type follower struct {
	topics []string
	ready  chan struct{}
}

// Subscribe subscribes to topics of a partition. It waits until the partition does
// not repair: each new topic would make a repair begin anew, and a storm of
// connections might never let it end. As with herald.Bus, after an error it is
// unknown whether the topics are subscribed.
func (d *Driver) Subscribe(ctx context.Context, partition int, topics ...string) error {
	s := d.sides[partition]
	f := follower{topics, make(chan struct{})}
	err := d.tell(ctx, func() {
		s.heldBack = append(s.heldBack, f)
		if !s.feed.Repairing() {
			s.letFollow()
		}
	})
	if err == nil {
		err = d.wait(ctx, f.ready)
	}
	if err == nil {
		err = s.bus.Subscribe(ctx, topics...)
	}
	if err == nil {
		err = d.tell(ctx, func() { s.follow(topics) })
	}
	return err
}

// Unsubscribe is the opposite of Subscribe. Packets that come after it are dropped.
func (d *Driver) Unsubscribe(ctx context.Context, partition int, topics ...string) error {
	s := d.sides[partition]
	err := d.tell(ctx, func() {
		for _, topic := range topics {
			s.feed.Unfollow(topic)
			delete(s.followed, topic)
		}
	})
	if err == nil {
		err = s.bus.Unsubscribe(ctx, topics...)
	}
	return err
}

// letFollow lets the calls go on that were held back.
func (s *side) letFollow() {
	held := s.heldBack
	s.heldBack = nil
	for _, f := range held {
		s.follow(f.topics)
		close(f.ready)
	}
}

// follow tells the feed that topics are about to be subscribed, or that they are.
func (s *side) follow(topics []string) {
	s.stir(settling)
	var last node.Step
	for _, topic := range topics {
		s.followed[topic] = struct{}{}
		if step := s.feed.Follow(topic); step.Ask.Round != 0 {
			last = step // its question covers all topics
		}
	}
	if last.Ask.Round != 0 {
		s.do(last)
	}
}
