// Package conflate knows the keys of the messages in a queue, of which only the newest
// message of each key stays. It has no goroutines, locks, clock or I/O.
package conflate

import (
	"crypto/sha256"

	"github.com/heraldgo/herald/internal/ring"
	"github.com/heraldgo/herald/internal/wire"
)

// SumSize is how many bytes a Sum has.
const SumSize = 16

// A Sum stands for a key and the message's target: of two messages with one Sum the
// newer takes the older one's place.
type Sum [SumSize]byte

// SumOf returns the Sum of a key, for a target with this kind and these ids.
func SumOf(kind byte, ids []string, key string) Sum {
	b := wire.AppendStrings(append(make([]byte, 0, 128), kind), ids)
	sum := sha256.Sum256(append(b, key...))
	return Sum(sum[:])
}

// A Key says which messages of a queue take each other's place.
type Key struct {
	Sum Sum

	// Log is the partition of the log that has the message, from 1, or 0 if none has
	// it. A message with a position gives way only to one with a later position in
	// the same log: otherwise the client could get it when it comes back, after the
	// newer one.
	Log uint8
}

// Keys are the keys of the messages in one queue. On a nil *Keys, Find finds nothing
// and Left does nothing.
type Keys struct {
	waiting ring.Ring[entry] // in the order of the queue
	first   [1]entry         // the memory of waiting until there is a second one
}

// An entry is a message in the queue.
type entry struct {
	key Key
	end *byte // the last byte of its frame, which tells it apart
}

// Add notes that a frame whose last byte in memory is end is now last in the queue.
func (k *Keys) Add(key Key, end *byte) {
	if k.waiting.Len() == 0 { // an idle queue keeps no memory for its keys
		k.waiting = ring.Ring[entry]{Buf: k.first[:]}
	}
	k.waiting.Push(entry{key, end})
}

// Left notes that the first frame of the queue, whose last byte is end, has left it.
func (k *Keys) Left(end *byte) {
	if k != nil && k.waiting.Len() > 0 && k.waiting.At(0).end == end {
		k.waiting.Pop()
	}
}

// Find returns the index of the key's message among the n frames of the queue, or -1.
// end returns the last byte of the i-th frame.
func (k *Keys) Find(key Key, n int, end func(i int) *byte) int {
	if k == nil {
		return -1
	}
	for at := range k.waiting.Len() {
		e := k.waiting.At(at)
		if e.key != key {
			continue
		}
		for i := range n {
			if end(i) == e.end {
				return i
			}
		}
	}
	return -1
}

// Cut notes that the frame whose last byte is end was removed from the queue,
// wherever it was.
func (k *Keys) Cut(end *byte) {
	for at := range k.waiting.Len() {
		if k.waiting.At(at).end == end {
			k.waiting.Remove(at)
			return
		}
	}
}
