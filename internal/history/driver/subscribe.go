package driver

import (
	"context"

	"github.com/heraldgo/herald/internal/history/node"
)

// A follower is a Subscribe that is held back.
type follower struct {
	topics []string
	ready  chan struct{}
}

// Subscribe subscribes to topics of a partition. It begins once the partition does
// not repair: each new topic would make a repair begin anew, and a storm of
// connections could keep it from an end. As with herald.Bus, after an error it is
// unknown whether they are subscribed.
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

// Unsubscribe takes Subscribe back. Packets that come after it are dropped.
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

// letFollow lets go on what was held back.
func (s *side) letFollow() {
	held := s.heldBack
	s.heldBack = nil
	for _, f := range held {
		s.follow(f.topics)
		close(f.ready)
	}
}

// follow says that topics are about to be subscribed, or that they are.
func (s *side) follow(topics []string) {
	s.stir(settling)
	var last node.Step
	for _, topic := range topics {
		s.followed[topic] = struct{}{}
		if step := s.feed.Follow(topic); step.Ask.Round != 0 {
			last = step // all of them are in it
		}
	}
	if last.Ask.Round != 0 {
		s.do(last)
	}
}
