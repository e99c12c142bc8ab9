// Package ring has a queue whose first value goes in O(1), however many wait
// behind it.
package ring

// A Ring is such a queue. The zero value is empty.
type Ring[T any] struct {
	// Buf is where the values are: as many places as a power of two, or none.
	// Whoever has room for a few may set it while the Ring is empty.
	Buf []T

	head int // where the first value is
	n    int // values
}

// Len returns how many values there are.
func (r *Ring[T]) Len() int { return r.n }

// At returns the i-th value.
func (r *Ring[T]) At(i int) *T { return &r.Buf[(r.head+i)&(len(r.Buf)-1)] }

// Push appends a value. If a second comes, more do.
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

// Pop takes the first value, which there must be.
func (r *Ring[T]) Pop() T {
	var none T
	first := r.At(0)
	v := *first
	*first = none
	r.head = (r.head + 1) & (len(r.Buf) - 1)
	r.n--
	return v
}

// Remove takes the i-th value out. Of those before it and those behind it, the fewer
// are moved.
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
