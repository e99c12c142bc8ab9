// Package loan lends the memory of packets. A Bus reads a packet into a Buffer. When
// the last holder has released it, the memory is used again, and makes no garbage. A
// Buffer that somebody does not release is garbage like any other memory, so holders
// may be forgotten, but none may release what another still reads.
package loan

import (
	"math/bits"
	"sync"
	"sync/atomic"
)

// A Buffer is memory on loan. A nil *Buffer stands for memory that is not.
type Buffer struct {
	Bytes []byte
	holds atomic.Int32
}

// Buffers of fewer bytes cost less as garbage, and larger ones are rare.
const (
	least = 512
	most  = 64 << 10
)

// There are four sizes from each power of two to the next, so at most a fifth is
// wasted.
const classes = 4 * (16 - 9)

var pools [classes + 1]sync.Pool

// classOf returns the smallest class of at least n bytes, and its size.
func classOf(n int) (class, size int) {
	exponent := bits.Len(uint(n-1)) - 1 // 1<<exponent < n <= 2<<exponent
	quarter := 1 << (exponent - 2)
	steps := (n - 1<<exponent + quarter - 1) / quarter // 1 to 4
	return 4*(exponent-9) + steps, 1<<exponent + steps*quarter
}

// Get returns a Buffer of n bytes, which the caller holds. It returns nil if that
// size is not lent.
func Get(n int) *Buffer {
	if n <= least || n > most {
		return nil
	}
	class, size := classOf(n)
	b, ok := pools[class].Get().(*Buffer)
	if !ok {
		b = &Buffer{Bytes: make([]byte, size)}
	}
	b.Bytes = b.Bytes[:n]
	b.holds.Store(1)
	return b
}

// Hold adds a holder. Only a holder may call it.
func (b *Buffer) Hold() {
	if b != nil {
		b.holds.Add(1)
	}
}

// Release ends one hold. The caller must not use the memory after that.
func (b *Buffer) Release() {
	if b == nil || b.holds.Add(-1) > 0 {
		return
	}
	b.Bytes = b.Bytes[:cap(b.Bytes)]
	class, _ := classOf(len(b.Bytes))
	pools[class].Put(b)
}
