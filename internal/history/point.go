package history

import "slices"

// An Epoch names a stretch of time in which a log has lost nothing: 64 random
// bits. Zero is none.
type Epoch uint64

// An Offset is the number of an entry of a log. They rise, and have holes.
type Offset uint64

// A Point is a place in the log of one partition: behind the entry with this
// Offset. The zero Point is nowhere.
type Point struct {
	Epoch  Epoch
	Offset Offset
}

// A Packet is what an append published to one topic.
type Packet struct {
	Topic string
	Body  []byte

	// Kept says that the log has the packet, at At. At of another packet is the end
	// of the log when it was published; nowhere, if it was published without the log.
	Kept bool
	At   Point

	// Born is the epoch in which the packet was appended, even if the log enters
	// others later. With the offset of At it is the packet's own position. Only if
	// Kept.
	Born Epoch

	// Prev is an offset before At; the topic has no entry between the two. Only if
	// Kept.
	Prev Offset
}

// An Entry is what the log has at one offset: a message, and the topics to which it
// was sent.
type Entry struct {
	Offset Offset
	Born   Epoch // see Packet
	Links  []Link
	Body   []byte
}

// A Link is a place in the chain of a topic.
type Link struct {
	Topic string
	Prev  Offset // see Packet
}

// A Trail says how far a reader was in the epochs that it has left. It may come back
// into one, if a master that was replaced still answers. The zero Trail is empty.
type Trail struct {
	left []Point // the one that was left last is at the end
}

// maxTrail is how many epochs a Trail has.
const maxTrail = 4

// Leave notes how far the reader was in an epoch.
func (t *Trail) Leave(at Point) {
	if i := slices.IndexFunc(t.left, func(l Point) bool { return l.Epoch == at.Epoch }); i >= 0 {
		at.Offset = max(at.Offset, t.left[i].Offset)
		t.left = slices.Delete(t.left, i, i+1)
	}
	t.left = append(t.left, at)
	t.left = t.left[max(0, len(t.left)-maxTrail):]
}

// Passed reports whether the reader has been at a point, or behind it.
func (t *Trail) Passed(at Point) bool {
	return slices.ContainsFunc(t.left, func(l Point) bool { return l.Epoch == at.Epoch && l.Offset >= at.Offset })
}

// A Fork is the way from one epoch into a later one.
type Fork struct {
	Epoch  Epoch  // the later one
	Parent Epoch  // the one that is left; zero if the log does not know it
	At     Offset // entries above it are of later epochs, or unknown
}

// Cross returns where a reader at p, in the epoch that is left, goes on.
func (f Fork) Cross(p Point) Point {
	switch p.Epoch {
	case f.Epoch:
		return p
	case f.Parent:
		return Point{f.Epoch, min(p.Offset, f.At)}
	}
	return Point{f.Epoch, f.At}
}
