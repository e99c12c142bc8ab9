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

// A Sum stands for a key and for whom the message is: two messages with one Sum take
// each other's place.
type Sum [SumSize]byte

// SumOf returns the Sum of a key, for a target of some kind with the ids.
func SumOf(kind byte, ids []string, key string) Sum {
	b := wire.AppendStrings(append(make([]byte, 0, 128), kind), ids)
	sum := sha256.Sum256(append(b, key...))
	return Sum(sum[:])
}

// A Key says which messages of a queue take each other's place.
type Key struct {
	Sum Sum

	// Log is the partition of the log that the message is in, from 1, or 0 if it is in
	// none. A message with a position gives way only to one with a later position in the
	// same log: otherwise the client could get it when it comes back, after the newer one.
	Log uint8
}

// Keys are those of the messages that wait in one queue. Of a nil *Keys, Find finds
// nothing and Left does nothing.
type Keys struct {
	waiting ring.Ring[entry] // in the order of the queue
	first   [1]entry         // the memory of waiting until there is a second one
}

// An entry is a message that waits.
type entry struct {
	key Key
	end *byte // the last byte of its frame, which tells it apart
}

// Add takes note that a frame which ends there is queued last.
func (k *Keys) Add(key Key, end *byte) {
	if k.waiting.Len() == 0 { // an idle queue holds no memory for its keys
		k.waiting = ring.Ring[entry]{Buf: k.first[:]}
	}
	k.waiting.Push(entry{key, end})
}

// Left takes note that the first frame of the queue, which ends there, has left it.
func (k *Keys) Left(end *byte) {
	if k != nil && k.waiting.Len() > 0 && k.waiting.At(0).end == end {
		k.waiting.Pop()
	}
}

// Find returns where in the n frames of the queue, which end there, the message of the
// key waits, or -1.
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

// Cut takes note that the frame which ends there was taken out of the queue, wherever
// it was.
func (k *Keys) Cut(end *byte) {
	for at := range k.waiting.Len() {
		if k.waiting.At(at).end == end {
			k.waiting.Remove(at)
			return
		}
	}
}
