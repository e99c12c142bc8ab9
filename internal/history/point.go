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

	// Kept says that the log has it, and then At is where. Of a packet that is
	// not kept, At is the end of the log when it was published, or nowhere if it
	// was published without the log.
	Kept bool
	At   Point

	// Born is the epoch in which it was appended, for ever: its own position, with
	// the offset of At. Only of a packet that is kept.
	Born Epoch

	// Prev is an offset before At, between which and At nothing of the topic
	// lies. Only of a packet that is kept.
	Prev Offset
}

// An Entry is what the log has at one offset: a message, and the topics that it
// was sent to.
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

// A Trail is where one has been in the epochs that it has left. It may come back
// into one, if a master still answers that was replaced. The zero Trail is empty.
type Trail struct {
	left []Point // the last one that was left at the end
}

// maxTrail is how many epochs a Trail has.
const maxTrail = 4

// Leave notes how far one was in an epoch.
func (t *Trail) Leave(at Point) {
	if i := slices.IndexFunc(t.left, func(l Point) bool { return l.Epoch == at.Epoch }); i >= 0 {
		at.Offset = max(at.Offset, t.left[i].Offset)
		t.left = slices.Delete(t.left, i, i+1)
	}
	t.left = append(t.left, at)
	t.left = t.left[max(0, len(t.left)-maxTrail):]
}

// Passed says whether one has been at a point, or behind it.
func (t *Trail) Passed(at Point) bool {
	return slices.ContainsFunc(t.left, func(l Point) bool { return l.Epoch == at.Epoch && l.Offset >= at.Offset })
}

// A Fork is the way from one epoch into a later one.
type Fork struct {
	Epoch  Epoch  // the later one
	Parent Epoch  // the one that is left; zero if the log does not know it
	At     Offset // what lies above is of later epochs, or it is unknown what it is
}

// Cross returns where one that was at p in the epoch that is left goes on.
func (f Fork) Cross(p Point) Point {
	switch p.Epoch {
	case f.Epoch:
		return p
	case f.Parent:
		return Point{f.Epoch, min(p.Offset, f.At)}
	}
	return Point{f.Epoch, f.At}
}
