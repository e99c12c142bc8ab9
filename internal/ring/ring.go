// Package ring has a queue whose first value is removed in O(1), however many wait
// behind it.
package ring

// A Ring is such a queue. The zero value is empty.
type Ring[T any] struct {
	// Buf has the values. Its length is a power of two, or 0. A caller with memory
	// for a few values may set it while the Ring is empty.
	Buf []T

	head int // where the first value is
	n    int // values
}

// Len returns how many values there are.
func (r *Ring[T]) Len() int { return r.n }

// At returns the i-th value.
func (r *Ring[T]) At(i int) *T { return &r.Buf[(r.head+i)&(len(r.Buf)-1)] }

// Push appends a value. If Buf is full it is replaced by one for eight values or
// more, since a second value is seldom the last.
func (r *Ring[T]) Push(v T) {
	if r.n == len(r.Buf) {
		buf := make([]T, max(8, 2*r.n))
		for i := range r.n {
			buf[i] = *r.At(i)
		}
		clear(r.Buf) // which may not be ours alone
		r.Buf, r.head = buf, 0
	}
	r.n++
	*r.At(r.n - 1) = v
}

// Pop removes and returns the first value. The Ring must not be empty.
func (r *Ring[T]) Pop() T {
	var none T
	first := r.At(0)
	v := *first
	*first = none
	r.head = (r.head + 1) & (len(r.Buf) - 1)
	r.n--
	return v
}

// Remove removes and returns the i-th value. It moves those before it or those behind
// it, whichever are fewer.
func (r *Ring[T]) Remove(i int) T {
	v := *r.At(i)
	if i < r.n/2 {
		for moved := range i {
			*r.At(i - moved) = *r.At(i - moved - 1)
		}
		r.Pop()
		return v
	}
	for behind := range r.n - 1 - i {
		*r.At(i + behind) = *r.At(i + behind + 1)
	}
	var none T
	r.n--
	*r.At(r.n) = none
	return v
}
