package hubtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/heraldgo/herald"
)

// isMessage reports whether an event is a message to a user.
func isMessage(e herald.Event) bool {
	return e.Kind == herald.EventPacket && e.Packet.Topic[0] == 'u'
}

// every spoils one in n messages.
func every(n int, spoil func(herald.Event) []herald.Event) func() func(herald.Event) []herald.Event {
	return func() func(herald.Event) []herald.Event {
		i := 0
		return func(e herald.Event) []herald.Event {
			if isMessage(e) {
				if i++; i%n == 0 {
					return spoil(e)
				}
			}
			return []herald.Event{e}
		}
	}
}

// reverse reverses the order of the first messages to a user. There are so many
// that two are from the same sender.
func reverse() func(herald.Event) []herald.Event {
	var held []herald.Event
	return func(e herald.Event) []herald.Event {
		if e.Packet.Topic != "uuser0" || len(held) > hubs*senders {
			return []herald.Event{e}
		}
		if held = append(held, e); len(held) <= hubs*senders {
			return nil
		}
		reversed := slices.Clone(held)
		slices.Reverse(reversed)
		return reversed
	}
}

func needlessGap() func(herald.Event) []herald.Event {
	return every(1000, func(e herald.Event) []herald.Event {
		return []herald.Event{e, {Kind: herald.EventDown, Since: time.Now(), Err: errors.New("no reason")}, {Kind: herald.EventRestored}}
	})()
}

func shiftGaps(by time.Duration) func() func(herald.Event) []herald.Event {
	return func() func(herald.Event) []herald.Event {
		return func(e herald.Event) []herald.Event {
			if e.Kind == herald.EventDown {
				e.Since = e.Since.Add(by)
			}
			return []herald.Event{e}
		}
	}
}

// deadTopic delivers nothing more of a topic after a gap.
func deadTopic(topic string) func() func(herald.Event) []herald.Event {
	return func() func(herald.Event) []herald.Event {
		dead := false
		return func(e herald.Event) []herald.Event {
			dead = dead || e.Kind == herald.EventRestored
			if dead && e.Packet.Topic == topic {
				return nil
			}
			return []herald.Event{e}
		}
	}
}

func publishAndLie(ctx context.Context, b herald.Bus, packets []herald.Packet) error {
	err := b.Publish(ctx, packets...)
	if err == nil && packets[0].Topic == "uuser0" {
		err = fmt.Errorf("%w: or so", herald.ErrBusDown)
	}
	return err
}

// refuseSome does not publish messages to a user, except fences.
func refuseSome(ctx context.Context, b herald.Bus, packets []herald.Packet) error {
	if packets[0].Topic == "uuser0" && !bytes.Contains(packets[0].Data, []byte("fence")) {
		return fmt.Errorf("%w: or so", herald.ErrBusDown)
	}
	return b.Publish(ctx, packets...)
}

// publishAgain returns an error, but publishes the packets later.
func publishAgain(ctx context.Context, b herald.Bus, packets []herald.Packet) error {
	err := b.Publish(ctx, packets...)
	if errors.Is(err, herald.ErrBusDown) {
		kept := slices.Clone(packets)
		for i := range kept {
			kept[i].Data = slices.Clone(kept[i].Data) // the Hub reuses its memory
		}
		go func() {
			for errors.Is(b.Publish(context.Background(), kept...), herald.ErrBusDown) {
				time.Sleep(10 * time.Millisecond)
			}
		}()
	}
	return err
}

// disconnect closes the connections of a user.
func disconnect(broker Broker) {
	bus, err := broker.NewBus()
	if err != nil {
		panic(err)
	}
	registry, err := broker.NewRegistry()
	if err != nil {
		panic(err)
	}
	hub, err := herald.New(herald.Config{Bus: bus, Registry: registry})
	if err != nil {
		panic(err)
	}
	defer hub.Shutdown(context.Background())
	if err := hub.Disconnect(context.Background(), herald.User("user0"), herald.StatusNormal, ""); err != nil {
		panic(err)
	}
}

// A forgetful Registry leaves one session out of its lists.
type forgetful struct{ herald.Registry }

func (f forgetful) Sessions(ctx context.Context, lease herald.Lease, topics ...string) ([][]herald.Session, error) {
	all, err := f.Registry.Sessions(ctx, lease, topics...)
	if len(topics) > 1 && len(all[0]) > 0 {
		all[0] = all[0][1:]
	}
	return all, err
}

// A greedyBus takes all events from a Bus, keeps them up to a number of bytes, and
// drops the others silently.
type greedyBus struct {
	herald.Bus
	events  chan herald.Event
	backlog atomic.Int64 // bytes
	pumping sync.WaitGroup
}

func newGreedyBus(b herald.Bus, limit int64) *greedyBus {
	g := &greedyBus{Bus: b, events: make(chan herald.Event, 1<<14)}
	g.pumping.Go(func() {
		defer close(g.events)
		for {
			e, err := b.Receive(context.Background())
			if err != nil {
				return
			}
			// Missing heartbeats would make the Hub report a gap.
			if g.backlog.Load() < limit || e.Packet.Topic == "h" {
				g.backlog.Add(int64(len(e.Packet.Data)))
				g.events <- e
			}
		}
	})
	return g
}

func (g *greedyBus) Receive(ctx context.Context) (herald.Event, error) {
	select {
	case e, ok := <-g.events:
		if !ok {
			return e, herald.ErrClosed
		}
		g.backlog.Add(-int64(len(e.Packet.Data)))
		return e, nil
	case <-ctx.Done():
		return herald.Event{}, ctx.Err()
	}
}

func (g *greedyBus) Close() error {
	err := g.Bus.Close()
	g.pumping.Wait()
	return err
}

// A fearfulBus refuses to publish while too many events wait for Receive.
type fearfulBus struct{ *greedyBus }

func (f fearfulBus) Publish(ctx context.Context, packets ...herald.Packet) error {
	if f.backlog.Load() > floodBytes/8 {
		return fmt.Errorf("%w: too much waits", herald.ErrBusDown)
	}
	return f.Bus.Publish(ctx, packets...)
}
