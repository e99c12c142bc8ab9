package receipts

import (
	"slices"

	"github.com/heraldgo/herald/internal/history"
)

// A Place is where a message is in the log. Its client gets it as the message's
// position, and acknowledges it.
type Place struct {
	Partition int
	At        history.Point
}

// Expect opens a receipt that an acknowledgement settles. The message has no frame
// yet. Expect forgets receipts that nobody waits for any more at the time now.
func (f *Fences) Expect(w Wanted, place Place, now int64) {
	f.add(fence{Wanted: w, place: place}, now)
}

// Place notes that the frame that is queued next, whose last byte in memory is end,
// is that of the place. It returns how many places are still expected.
func (f *Fences) Place(place Place, end *byte) (left int) {
	if i := f.expects(place); i >= 0 {
		o := f.open[i]
		o.stage, o.end = made, end
		f.open = append(slices.Delete(f.open, i, i+1), o) // others may have been queued meanwhile
	}
	return f.expected()
}

// Pass settles the receipt of a place as not received, if it is still expected: no
// frame will come. It returns how many places are still expected.
func (f *Fences) Pass(place Place) (left int) {
	if i := f.expects(place); i >= 0 {
		f.end(i, false)
	}
	return f.expected()
}

func (f *Fences) expects(place Place) int {
	if f == nil {
		return -1
	}
	return slices.IndexFunc(f.open, func(o fence) bool { return o.stage == expected && o.place == place })
}

func (f *Fences) expected() (n int) {
	if f == nil {
		return 0
	}
	for i := range f.open {
		if f.open[i].stage == expected {
			n++
		}
	}
	return n
}

// Sent notes that a frame is being written. Before that its place can't be
// acknowledged.
func (f *Fences) Sent(end *byte) {
	if i := f.find(end); i >= 0 && !f.open[i].pinged() {
		f.open[i].stage = sent
	}
}

// Ack takes the acknowledgement of a place. If a message at that place, or before it
// in the same epoch, was sent, then it and all that were sent before it are settled
// as received: clients process messages in order. Offsets of other epochs can't be
// compared, so they prove nothing.
func (f *Fences) Ack(place Place) {
	if f == nil {
		return
	}
	last := len(f.open) - 1
	for last >= 0 && !f.open[last].within(place) {
		last--
	}
	f.receive(last, func(o *fence) bool { return o.stage == sent })
}

// within reports whether the message was sent, and is not behind the place.
func (o *fence) within(place Place) bool {
	return o.stage == sent && o.place.Partition == place.Partition &&
		o.place.At.Epoch == place.At.Epoch && o.place.At.Offset <= place.At.Offset
}
