package loan

import (
	"sync"
	"testing"
)

// Every size that is lent has a class, whose memory is large enough and a quarter
// larger at most. Memory comes back to the class that it was got from.
func TestClasses(t *testing.T) {
	for n := range most + 2 {
		b := Get(n)
		if lent := n > least && n <= most; b == nil == lent {
			t.Fatalf("%d bytes: %v", n, b)
		} else if !lent {
			continue
		}
		class, size := classOf(n)
		if len(b.Bytes) != n || size < n || size > n+n/4 || class < 1 || class > classes {
			t.Fatalf("%d bytes: %d of %d, class %d", n, len(b.Bytes), size, class)
		}
		if again, all := classOf(size); again != class || all != size {
			t.Fatalf("%d bytes: got from class %d, and back to %d", n, class, again)
		}
		b.Release()
	}
}

// Memory is lent again once all have released it, and not before.
func TestHolds(t *testing.T) {
	var none *Buffer
	none.Hold()
	none.Release()
	again := 0
	for range 100 { // a pool may lose some
		b := Get(1000)
		memory := &b.Bytes[0]
		b.Hold()
		b.Release()
		if other := Get(1000); &other.Bytes[0] == memory {
			t.Fatal("memory is lent that somebody holds")
		}
		b.Release()
		if other := Get(990); &other.Bytes[0] == memory && len(other.Bytes) == 990 {
			again++
		}
	}
	if again == 0 {
		t.Error("no memory is lent again")
	}
}

// Nobody writes to memory that another still reads, however many hold it.
func TestSharedHolds(t *testing.T) {
	var group sync.WaitGroup
	for lender := range 4 {
		group.Go(func() {
			for n := range 500 {
				b := Get(600)
				for i := range b.Bytes {
					b.Bytes[i] = byte(lender + n)
				}
				for range 3 {
					b.Hold()
					group.Go(func() {
						defer b.Release()
						for _, c := range b.Bytes {
							if c != byte(lender+n) {
								t.Error("another has written")
								return
							}
						}
					})
				}
				b.Release()
			}
		})
	}
	group.Wait()
}
