package faultrig

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/heraldgo/herald/internal/test/load"
)

// A kind is the client that a device runs.
type kind uint8

const (
	goClient kind = iota // heraldclient
	jsClient             // client/js, under Node
	plain                // any WebSocket client: it knows nothing of PROTOCOL.md
)

func (k kind) String() string { return [...]string{"Go", "JS", "plain"}[k] }

// A happening is one thing that a device saw.
type happening struct {
	at      int64 // Unix nanoseconds
	message *load.Receipt
	gap     bool
	on      bool // it is connected now
	resumed bool // the connection resumed the one before
	off     bool // it is no longer connected
}

// A visit is a time that a device spent on a node. It has got everything that was
// sent to it then, unless the node has told of a gap.
type visit struct {
	node     string
	keeps    bool  // the node tells the device itself if something may be missing
	from, to int64 // to is zero while the visit lasts
}

// A device is a client of a user, with a record of everything that it has seen.
type device struct {
	load.Device
	kind  kind
	roams bool // it is cut off at random times, and comes back to any node
	trial *trial
	client

	away    atomic.Bool
	stalled atomic.Int64         // when the stall began, in Unix nanoseconds; 0 if there is none
	peer    atomic.Pointer[peer] // the node that it connects to, or is on

	mu     sync.Mutex
	events []happening
	fence  int // the newest fence that it got
	on     []visit
	last   int64 // when it last heard anything
}

// String names the device without its node, which may be changing.
func (d *device) String() string { return fmt.Sprintf("%s of %s", d.Name, d.User) }

// A client is what a device uses to connect.
type client interface {
	// run runs the client until ctx is done.
	run(ctx context.Context)

	// cut ends the connection and prevents new ones, or lets the client connect
	// again.
	cut(on bool)

	// stall stops the client from reading, or lets it read on.
	stall(on bool)
}

// welcomed notes whether the latest connection has resumed, which was not known
// when it was noted.
func (d *device) welcomed(resumed bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := len(d.events) - 1; i >= 0; i-- {
		if d.events[i].on {
			d.events[i].resumed = resumed
			return
		}
	}
}

// note records a happening. If it has no time, that is now.
func (d *device) note(h happening) {
	if h.at == 0 {
		h.at = time.Now().UnixNano()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case h.on:
		if d.Since == 0 {
			d.Since = h.at
		}
		d.on = append(d.on, visit{node: d.Node, keeps: d.peerKeeps(), from: h.at})
		d.last = h.at
	case h.off:
		d.leave()
	default:
		d.last = h.at
	}
	d.events = append(d.events, h)
}

// peerKeeps reports whether the device's node can tell the device of a gap.
func (d *device) peerKeeps() bool {
	p := d.peer.Load()
	return d.kind != plain && p != nil && p.keeps
}

// leave ends a visit. What came after the last thing heard may be lost with the
// connection, and so may what came during a stall. The caller holds mu.
func (d *device) leave() {
	i := len(d.on) - 1
	if i < 0 || d.on[i].to != 0 {
		return
	}
	d.on[i].to = d.last
	if at := d.stalled.Load(); at != 0 {
		d.on[i].to = min(d.last, at)
	}
}

// take takes a message that came at a time in Unix nanoseconds; 0 means now.
func (d *device) take(data []byte, at int64) {
	if r, ok := load.ParseReceipt(data); ok {
		d.note(happening{at: at, message: &r})
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	n := 0
	fmt.Sscanf(string(data), "fence %d", &n)
	d.fence = max(d.fence, n)
}

func (d *device) fenced() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.fence
}

// seen returns everything that has happened to the device so far.
func (d *device) seen() (events []happening, on []visit) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.events), slices.Clone(d.on)
}

// connected reports whether the device is connected or, with ever, whether it has
// ever been.
func (d *device) connected(ever bool) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	i := len(d.on) - 1
	return i >= 0 && (ever || d.on[i].to == 0)
}

// choose returns the URL of a node: always the same until the device was on it,
// then that of any.
func (d *device) choose() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := d.peer.Load()
	if p == nil || d.Node != "" {
		p = d.trial.any()
		d.peer.Store(p)
	}
	d.Node = p.node
	query := url.Values{"user": {d.User}, "group": d.Groups}
	return p.url + "?" + query.Encode()
}

// setAway cuts the device off, or lets it come back.
func (d *device) setAway(on bool) {
	d.away.Store(on)
	d.cut(on)
}

// setStalled stops the device from reading, or lets it read on.
func (d *device) setStalled(on bool) {
	if on {
		d.stalled.Store(time.Now().UnixNano())
	}
	d.stall(on)
}

// roam cuts the device, and lets it come back, until ctx is done.
func (d *device) roam(ctx context.Context) {
	defer d.setAway(false)
	for ctx.Err() == nil {
		pause(ctx, rand.N(2*time.Second))
		d.setAway(true)
		pause(ctx, rand.N(time.Second))
		d.setAway(false)
	}
}

// pause waits for d, or until ctx is done.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}
