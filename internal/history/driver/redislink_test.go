package driver_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald/internal/errs"
	"github.com/heraldgo/herald/internal/history"
	"github.com/heraldgo/herald/internal/history/driver"
	"github.com/heraldgo/herald/internal/history/packet"
	"github.com/heraldgo/herald/internal/history/redislog"
	"github.com/heraldgo/herald/internal/history/store"
	"github.com/heraldgo/herald/internal/test/memlog"
)

// A redisLink is a node's connection to a partition on a real Redis. Its calls have
// the faults of memlog.
type redisLink struct {
	*redislog.Log
	rdb    *redis.Client
	fences string
	push   func(driver.Event)

	life    sync.Mutex // held while it goes up or down
	reading sync.WaitGroup

	mu     sync.Mutex
	faults memlog.Faults
	topics map[string]struct{}
	sub    *redis.PubSub              // nil while the link is down
	waits  map[string][]chan struct{} // by channel: closed when the subscription is confirmed or the link goes down
	deaf   bool
}

const channelOf = "c:" // the prefix of a topic's channel

func newRedisLink(rdb *redis.Client, node int, limits store.Limits, push func(driver.Event)) *redisLink {
	l := &redisLink{
		rdb: rdb, push: push, fences: fmt.Sprint("f", node),
		topics: make(map[string]struct{}), waits: make(map[string][]chan struct{}),
	}
	l.Log = redislog.New(redislog.Config{Client: rdb, Limits: limits, Keys: "k:", Topics: channelOf, Fences: l.fences})
	return l
}

// Up makes a new link if it is down, with all subscriptions.
func (l *redisLink) Up() {
	l.life.Lock()
	defer l.life.Unlock()
	l.mu.Lock()
	up, channels := l.sub != nil, []string{l.fences}
	for topic := range l.topics {
		channels = append(channels, channelOf+topic)
	}
	l.mu.Unlock()
	if up {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	sub := l.rdb.Subscribe(ctx, channels...)
	var early []*redis.Message
	for left := len(channels); left > 0; {
		v, err := sub.Receive(ctx)
		if err != nil {
			sub.Close()
			return
		}
		if m, ok := v.(*redis.Message); ok {
			early = append(early, m)
		} else {
			left--
		}
	}
	l.push(driver.Event{Kind: driver.Restored})
	for _, m := range early {
		l.bring(m)
	}
	l.mu.Lock()
	l.sub = sub
	l.mu.Unlock()
	l.reading.Go(func() { l.read(sub) })
}

// read reads from the link until it breaks. go-redis would replace it unseen.
func (l *redisLink) read(sub *redis.PubSub) {
	for {
		v, err := sub.Receive(context.Background())
		if err != nil {
			break
		}
		switch v := v.(type) {
		case *redis.Message:
			l.bring(v)
		case *redis.Subscription:
			l.mu.Lock()
			l.confirm(v.Channel)
			l.mu.Unlock()
		}
	}
	sub.Close()
	l.mu.Lock()
	doubt := l.deaf
	l.sub, l.deaf = nil, false
	for channel := range l.waits {
		l.confirm(channel)
	}
	l.mu.Unlock()
	l.push(driver.Event{Kind: driver.Down})
	if doubt {
		l.push(driver.Event{Kind: driver.Doubt})
	}
}

func (l *redisLink) confirm(channel string) {
	for _, wait := range l.waits[channel] {
		close(wait)
	}
	delete(l.waits, channel)
}

func (l *redisLink) bring(m *redis.Message) {
	l.mu.Lock()
	deaf := l.deaf
	l.mu.Unlock()
	if deaf {
		return
	}
	topic, ok := strings.CutPrefix(m.Channel, channelOf)
	if !ok {
		if end, number, err := packet.ParseFence([]byte(m.Payload)); err == nil {
			l.push(driver.Event{Kind: driver.Fence, Number: number, End: end})
		}
		return
	}
	if p, err := packet.Parse(topic, []byte(m.Payload)); err == nil {
		l.push(driver.Event{Kind: driver.Packet, Packet: p})
	}
}

// Cut breaks the link. Events that have not been read are lost.
func (l *redisLink) Cut(int) {
	l.life.Lock()
	defer l.life.Unlock()
	l.mu.Lock()
	if l.sub != nil {
		l.sub.Close()
	}
	l.mu.Unlock()
	l.reading.Wait()
}

// Close ends the link. Its node must be closed already.
func (l *redisLink) Close() { l.Cut(0) }

// Deafen makes the link deliver nothing more. That is noticed when it is cut.
func (l *redisLink) Deafen() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.deaf = l.sub != nil
}

// Break sets the faults from now on.
func (l *redisLink) Break(f memlog.Faults) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.faults = f
}

// Subscribe implements driver.Bus.
func (l *redisLink) Subscribe(ctx context.Context, topics ...string) error {
	var waits []chan struct{}
	var channels []string
	l.mu.Lock()
	sub := l.sub
	if sub == nil || l.deaf {
		l.mu.Unlock()
		return errs.BusDown
	}
	for _, topic := range topics {
		wait, channel := make(chan struct{}), channelOf+topic
		waits, channels = append(waits, wait), append(channels, channel)
		l.topics[topic] = struct{}{}
		l.waits[channel] = append(l.waits[channel], wait)
	}
	l.mu.Unlock()
	if err := sub.Subscribe(ctx, channels...); err != nil {
		return fmt.Errorf("%w: %w", errs.BusDown, err)
	}
	for _, wait := range waits {
		select {
		case <-wait:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sub != sub {
		return errs.BusDown
	}
	return nil
}

// Unsubscribe implements driver.Bus.
func (l *redisLink) Unsubscribe(ctx context.Context, topics ...string) error {
	var channels []string
	l.mu.Lock()
	sub := l.sub
	for _, topic := range topics {
		delete(l.topics, topic)
		channels = append(channels, channelOf+topic)
	}
	l.mu.Unlock()
	if sub == nil {
		return nil
	}
	return sub.Unsubscribe(ctx, channels...)
}

// script makes a call, with the link's faults.
func (l *redisLink) script(ctx context.Context, call func() error) error {
	l.mu.Lock()
	faults := l.faults
	l.mu.Unlock()
	if err := someTimeOf(ctx, faults.Delay); err != nil {
		return err
	}
	if faults.Refuse != nil {
		return faults.Refuse
	}
	err := call()
	if lost := someTimeOf(ctx, faults.Delay); err == nil && (lost != nil || faults.Forget) {
		return fmt.Errorf("%w: the answer was lost", errs.Unknown)
	}
	return err
}

func someTimeOf(ctx context.Context, most time.Duration) error {
	if most == 0 {
		return ctx.Err()
	}
	select {
	case <-time.After(rand.N(most)):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Append implements driver.Log.
func (l *redisLink) Append(ctx context.Context, known history.Point, segment uint64, batch []store.Draft) (reply store.Reply, err error) {
	err = l.script(ctx, func() (err error) {
		reply, err = l.Log.Append(ctx, known, segment, batch)
		return err
	})
	return reply, err
}

// Fence implements driver.Log.
func (l *redisLink) Fence(ctx context.Context, known history.Point, number uint64) (end history.Point, err error) {
	err = l.script(ctx, func() (err error) {
		end, err = l.Log.Fence(ctx, known, number)
		return err
	})
	return end, err
}

// Survey implements driver.Log.
func (l *redisLink) Survey(ctx context.Context, known, from history.Point, topics []string, most int) (survey history.Survey, err error) {
	err = l.script(ctx, func() (err error) {
		survey, err = l.Log.Survey(ctx, known, from, topics, most)
		return err
	})
	return survey, err
}

// Read implements driver.Log.
func (l *redisLink) Read(ctx context.Context, known history.Point, epoch history.Epoch, offsets, more []history.Offset) (x history.Excerpt, ok bool, err error) {
	err = l.script(ctx, func() (err error) {
		x, ok, err = l.Log.Read(ctx, known, epoch, offsets, more)
		return err
	})
	return x, ok, err
}
