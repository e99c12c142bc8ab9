package herald

import (
	"slices"

	"github.com/heraldgo/herald/internal/clock"
	"github.com/heraldgo/herald/internal/history"
	"github.com/heraldgo/herald/internal/history/device"
	"github.com/heraldgo/herald/internal/receipts"
)

// A fence goes behind one message to Conns whose clients can come back. If the message
// has a position it needs none, because the client acknowledges the position.
type fence struct {
	want  receipts.Wanted
	token receipts.Token

	message, fenced []byte // the frame of the message, and that with the fence
}

// behind returns the frame with the fence behind it, made once for all Conns.
func (f *fence) behind(frame []byte) []byte {
	if f.message == nil || !same(f.message, frame) {
		f.message = frame
		f.fenced = receipts.AppendFence(append(make([]byte, 0, len(frame)+receipts.FenceSize), frame...), f.token)
	}
	return f.fenced
}

// tookFenced does what took does, with a receipt for the message.
func (l *connLog) tookFenced(e *envelope, p *logged, f *fence) {
	place, ok := l.acknowledges(p)
	if !ok {
		l.fence = f
		if l.took(e, p); l.fence != nil { // it is not queued, but comes with what was missed
			l.fence = nil
			l.c.settled(f.want, false)
		}
		return
	}
	l.expect(f.want, place)
	if l.took(e, p); !l.session.Awaits(place.Partition, p.At) {
		l.c.mu.Lock()
		l.expected = l.c.queue.fences.Pass(place)
		l.c.mu.Unlock()
	}
}

// expect opens a receipt for a message that is queued now, or that is read from the
// log.
func (l *connLog) expect(want receipts.Wanted, place receipts.Place) {
	c := l.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state.closing() {
		c.settled(want, false)
		return
	}
	c.openFences().Expect(want, place, clock.Now())
	l.expected++
}

// acknowledges returns the place of a message that the client will acknowledge. If the
// client has brought along a position that is ahead of the message, there is none,
// because it would acknowledge that without having the message.
func (l *connLog) acknowledges(p *logged) (place receipts.Place, ok bool) {
	if !p.Kept || l.k.mixed() {
		return place, false
	}
	place = receipts.Place{Partition: p.partition, At: history.Point{Epoch: p.Born, Offset: p.At.Offset}}
	from := l.resume.From[place.Partition]
	return place, from.Epoch != place.At.Epoch || from.Offset < place.At.Offset
}

// place takes note that the frame of a message is queued next, if its receipt is
// expected.
func (l *connLog) place(f *device.Frame, frame []byte) {
	if l.expected == 0 {
		return
	}
	l.c.mu.Lock()
	defer l.c.mu.Unlock()
	l.expected = l.c.queue.fences.Place(receipts.Place{Partition: f.Partition, At: f.At}, &frame[len(frame)-1])
}

// lose takes note that a frame is not queued.
func (l *connLog) lose(frame []byte) {
	l.c.mu.Lock()
	defer l.c.mu.Unlock()
	l.c.queue.fences.Lose(&frame[len(frame)-1])
}

// acknowledged takes what the client says that it has processed.
func (c *Conn) acknowledged(positions *history.Positions) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.queue.fences == nil {
		return
	}
	for i, at := range positions {
		if at.Epoch != 0 {
			c.queue.fences.Ack(receipts.Place{Partition: i, At: at})
		}
	}
	if c.queue.fences.Empty() {
		c.queue.fences = nil
	}
}

// was says whether one of the connections is an earlier one of the client's.
func (l *connLog) was(connections []string) bool {
	return l != nil && slices.ContainsFunc(l.last, func(id string) bool { return slices.Contains(connections, id) })
}
