// Package locallog has the log of a partition in memory, for the nodes of one
// process: what a driver.Driver needs of a broker.
package locallog

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/heraldgo/herald/internal/history"
	"github.com/heraldgo/herald/internal/history/driver"
	"github.com/heraldgo/herald/internal/history/packet"
	"github.com/heraldgo/herald/internal/history/store"
)

// A Server has the log. It is never restarted, so its only epochs are those that
// its nodes ask for.
type Server struct {
	publish func(topic string, data []byte)

	mu  sync.Mutex // held while publish runs, for one order of all
	log *store.Log
}

// New returns a Server with an empty log, whose segments have this many offsets. It
// calls publish for one packet after the other; the bytes are publish's own.
func New(segment history.Offset, publish func(topic string, data []byte)) *Server {
	return &Server{publish: publish, log: store.New(segment)}
}

// Log returns a node's access to the log. limits say how much the node wants to be
// kept, and its fences go to the topic fences. While failing returns an error, no
// call is carried out.
func (s *Server) Log(fences string, limits store.Limits, failing func() error) driver.Log {
	return &node{s, fences, failing, limits.Wanted()}
}

type node struct {
	*Server
	fences  string
	failing func() error
	agreed  store.Agreement // guarded by mu
}

// script carries out f as one step of a node that knows the log up to known.
func (n *node) script(ctx context.Context, known history.Point, f func(store.Caller)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := n.failing(); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	f(store.Caller{Now: time.Now().UnixMilli(), Known: known, Fresh: history.Epoch(rand.Uint64() | 1), Agreed: n.agreed})
	if agreed, ok := n.log.Agreed(); ok {
		n.agreed = agreed
	}
	return nil
}

// Append implements driver.Log.
func (n *node) Append(ctx context.Context, known history.Point, segment uint64, batch []store.Draft) (reply store.Reply, err error) {
	own := make([]store.Draft, len(batch))
	for i, d := range batch {
		own[i] = d
		own[i].Body = append([]byte(nil), d.Body...) // the caller's may change
	}
	err = n.script(ctx, known, func(c store.Caller) {
		reply = n.log.Append(c, segment, own)
		n.send(reply.Published)
	})
	reply.Published = nil
	return reply, err
}

// Publish implements driver.Log.
func (n *node) Publish(ctx context.Context, batch []store.Draft) error {
	return n.script(ctx, history.Point{}, func(store.Caller) {
		for _, d := range batch {
			for _, topic := range d.Topics {
				n.send([]history.Packet{{Topic: topic, Body: d.Body}})
			}
		}
	})
}

func (n *node) send(packets []history.Packet) {
	for _, p := range packets {
		n.publish(p.Topic, packet.Append(make([]byte, 0, packet.MaxPlace+len(p.Body)), p))
	}
}

// Fence implements driver.Log.
func (n *node) Fence(ctx context.Context, known history.Point, number uint64) (end history.Point, err error) {
	err = n.script(ctx, known, func(c store.Caller) {
		end = n.log.Fence(c)
		n.publish(n.fences, packet.AppendFence(nil, end, number))
	})
	return end, err
}

// Survey implements driver.Log.
func (n *node) Survey(ctx context.Context, known, from history.Point, topics []string, most int) (survey history.Survey, err error) {
	err = n.script(ctx, known, func(c store.Caller) { survey = n.log.Survey(c, from, topics, most) })
	return survey, err
}

// Read implements driver.Log.
func (n *node) Read(ctx context.Context, known history.Point, epoch history.Epoch, offsets, more []history.Offset) (x history.Excerpt, ok bool, err error) {
	x = history.Excerpt{Offsets: slices.Concat(offsets, more)}
	slices.Sort(x.Offsets)
	err = n.script(ctx, known, func(c store.Caller) { x.Entries, ok = n.log.Read(c, epoch, x.Offsets) })
	return x, ok, err
}

// Trim implements driver.Log.
func (n *node) Trim(ctx context.Context, known history.Point) error {
	return n.script(ctx, known, func(c store.Caller) {
		n.log.Fence(c) // what the node knows may begin an epoch, but only once
		for c.Known = (history.Point{}); ; {
			if segment, due := n.log.Due(c.Now); !due || !n.log.Trim(c, segment) {
				return
			}
		}
	})
}

// Renew implements driver.Log.
func (n *node) Renew(ctx context.Context, known history.Point, epoch history.Epoch) (end history.Point, err error) {
	err = n.script(ctx, known, func(c store.Caller) { end = n.log.Renew(c, epoch) })
	return end, err
}

// Forget implements driver.Log.
func (n *node) Forget(ctx context.Context, known history.Point, topics []string) error {
	return n.script(ctx, known, func(c store.Caller) { n.log.Forget(c, topics) })
}
