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

// A happening is what a device saw. It has one of these.
type happening struct {
	at      int64 // Unix nanoseconds
	message *load.Receipt
	gap     bool
	on      bool // it is connected
	resumed bool // as it was before
	off     bool // it is not any more
}

// A visit is the time that a device was on a node: of what was sent then it has
// everything, if the node has not told of a gap.
type visit struct {
	node     string
	keeps    bool  // the node tells the device itself of what may be missing
	from, to int64 // to is zero while it lasts
}

// A device is a client of a user, and all that it has seen.
type device struct {
	load.Device
	kind  kind
	roams bool // it is cut at random, and comes back to any node
	trial *trial
	client

	away    atomic.Bool
	stalled atomic.Int64         // when that began, as Unix nanoseconds; 0 if it is not
	peer    atomic.Pointer[peer] // that it goes to, or is on

	mu     sync.Mutex
	events []happening
	fence  int // the newest that it got
	on     []visit
	last   int64 // when something came
}

// String names the device. Its node may be changing.
func (d *device) String() string { return fmt.Sprintf("%s of %s", d.Name, d.User) }

// A client is what a device connects with.
type client interface {
	// run runs it until ctx is done.
	run(ctx context.Context)

	// cut ends its connection, and lets none begin until it is healed.
	cut(on bool)

	// stall keeps it from reading, or lets it read on.
	stall(on bool)
}

// welcomed says that the connection, which was noted before it could be known, keeps.
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

// note takes down what has happened. If it has no time that is now.
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

// peerKeeps says whether the node that it is on can tell it of a gap.
func (d *device) peerKeeps() bool {
	p := d.peer.Load()
	return d.kind != plain && p != nil && p.keeps
}

// leave ends a visit: what came last may be lost with the connection, and so may
// what came while it did not read. The caller holds mu.
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

// take takes a message that came at a time; 0 is now.
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

// seen returns what has happened to it so far.
func (d *device) seen() (events []happening, on []visit) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.events), slices.Clone(d.on)
}

// connected says whether it is, or has been if ever is set.
func (d *device) connected(ever bool) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	i := len(d.on) - 1
	return i >= 0 && (ever || d.on[i].to == 0)
}

// choose returns where it goes: to its first node at first, then to any.
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

// setAway cuts it off, or lets it come back.
func (d *device) setAway(on bool) {
	d.away.Store(on)
	d.cut(on)
}

// setStalled stops it from reading, or lets it read on.
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

// pause lets time pass, which is what a device that is away does.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}
