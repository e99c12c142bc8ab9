// Package receipts has the rules of receipts: what a pong or an acknowledgement proves
// to a node, and what a node that waits for receipts knows. It has no goroutines,
// locks, clock or I/O.
//
// A message that wants a receipt has a ping behind it, the fence, in the same write.
// Frames arrive in order, and a pong carries what its ping carried (RFC 6455 section
// 5.5.3). So the pong proves that the message has arrived.
//
// A message with a position, to a client that acknowledges positions, needs no fence.
// The acknowledgement of this position, or of a later one, proves that the client's
// program has processed the message.
package receipts

import (
	"encoding/binary"
	"slices"

	"github.com/heraldgo/herald/internal/frame"
)

// FenceSize is how many bytes a fence has. tokenSize is how many of them its pong
// carries.
const (
	FenceSize = 2 + tokenSize
	tokenSize = 8
)

// MaxFences is how many receipts of one connection may be open. The oldest gives way.
const MaxFences = 1024

// A Token names a fence. It is random, so that nobody can answer a ping that was
// not sent.
type Token uint64

// AppendFence appends the ping that carries the token.
func AppendFence(b []byte, token Token) []byte {
	b = frame.AppendHeader(b, frame.Ping, tokenSize)
	return binary.BigEndian.AppendUint64(b, uint64(token))
}

// A Wanted is a receipt that some node waits for.
type Wanted struct {
	Node  string // that waits
	ID    uint64 // of its Call
	Until int64  // nobody waits for it afterwards; by the clock of the caller's choice
}

// Fences are the open receipts of one connection, in the order of their frames: those
// that no pong, no acknowledgement and no loss has settled. The methods of a nil
// *Fences do nothing.
type Fences struct {
	settle func(w Wanted, received bool)
	open   []fence
	asked  int // pongs that are still to come, one for each fence
}

// A fence is an open receipt: of a message with a ping behind it, or of one with a
// place.
type fence struct {
	Wanted
	stage stage
	end   *byte // the last byte of its frame in memory; nil while it is expected
	token Token // of the ping
	place Place
}

// A stage is how far the frame of an open receipt has come, as far as that matters.
//
//	with a ping:       made ── Queued ──▶ queued
//	with a place:  expected ── Place ──▶ made ── Sent ──▶ sent
//
// A ping may be written, and answered, before Queued is called.
type stage uint8

const (
	expected stage = iota
	made
	queued
	sent
)

// NewFences returns Fences that call settle once for each receipt, except those that
// nobody waits for any more.
func NewFences(settle func(w Wanted, received bool)) *Fences { return &Fences{settle: settle} }

// Add opens a fence whose last byte in memory is end, before it is queued. It forgets
// receipts that nobody waits for any more at the time now.
func (f *Fences) Add(w Wanted, token Token, end *byte, now int64) {
	f.add(fence{Wanted: w, stage: made, token: token, end: end}, now)
	f.asked = min(f.asked+1, MaxFences)
}

func (f *Fences) add(o fence, now int64) {
	f.open = slices.DeleteFunc(f.open, func(o fence) bool { return o.Until < now })
	if len(f.open) >= MaxFences {
		f.end(0, false)
	}
	f.open = append(f.open, o)
}

// end settles the i-th receipt.
func (f *Fences) end(i int, received bool) {
	w := f.open[i].Wanted
	f.open = slices.Delete(f.open, i, i+1)
	f.settle(w, received)
}

func (f *Fences) find(end *byte) int {
	if f == nil {
		return -1
	}
	return slices.IndexFunc(f.open, func(o fence) bool { return o.end == end })
}

// Queued notes that the fence is in the queue, or has been taken from there.
func (f *Fences) Queued(end *byte) {
	if i := f.find(end); i >= 0 {
		f.open[i].stage = queued
	}
}

// Lose settles the receipt of the frame as not received, if it is open: the frame
// will not be written.
func (f *Fences) Lose(end *byte) {
	if i := f.find(end); i >= 0 {
		f.end(i, false)
	}
}

// LoseAll settles all receipts as not received: the connection has ended.
func (f *Fences) LoseAll() {
	for f != nil && len(f.open) > 0 {
		f.end(0, false)
	}
}

// Pong takes the payload of a pong. If it is the token of an open fence, that fence
// and those before it are settled as received: of several pings a client need answer
// only the last. Otherwise it proves nothing. Pong reports whether a pong was expected:
// one for each fence, whatever its payload, because some clients answer without one.
func (f *Fences) Pong(payload []byte) (asked bool) {
	if f == nil {
		return false
	}
	if asked = f.asked > 0; asked {
		f.asked--
	}
	if len(payload) == tokenSize {
		token := Token(binary.BigEndian.Uint64(payload))
		last := slices.IndexFunc(f.open, func(o fence) bool { return o.pinged() && o.token == token })
		f.receive(last, (*fence).pinged)
	}
	return asked
}

// pinged reports whether a ping goes behind the message.
func (o *fence) pinged() bool { return o.place == Place{} }

// receive settles as received the receipts up to the last-th for which holds returns
// true.
func (f *Fences) receive(last int, holds func(*fence) bool) {
	for i := 0; i <= last; {
		if holds(&f.open[i]) {
			f.end(i, true)
			last--
		} else {
			i++
		}
	}
}

// Written returns the token of the newest open fence that has been written. waiting
// has the last bytes of the frames in the queue, in order.
func (f *Fences) Written(waiting []*byte) (token Token, ok bool) {
	if f == nil {
		return 0, false
	}
	i := f.queuedBefore(len(f.open))
	for _, end := range slices.Backward(waiting) { // fences have the order of their frames
		if i >= 0 && f.open[i].end == end {
			i = f.queuedBefore(i)
		}
	}
	if i < 0 {
		return 0, false
	}
	return f.open[i].token, true
}

// queuedBefore returns the index of the last fence before the i-th receipt that is
// queued, or -1.
func (f *Fences) queuedBefore(i int) int {
	for i--; i >= 0 && f.open[i].stage != queued; i-- {
	}
	return i
}

// Empty reports whether no receipt is open.
func (f *Fences) Empty() bool { return f.Len() == 0 }

// Len returns how many receipts are open.
func (f *Fences) Len() int {
	if f == nil {
		return 0
	}
	return len(f.open)
}
