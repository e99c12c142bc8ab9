package herald

// A ring is a queue whose first value goes in O(1), however many wait behind
// it. The zero value is empty.
type ring[T any] struct {
	buf  []T // as many as a power of two
	head int // of the first value
	n    int // values
}

// at returns the i-th value.
func (r *ring[T]) at(i int) *T { return &r.buf[(r.head+i)&(len(r.buf)-1)] }

// push appends a value. If a second comes, more do.
func (r *ring[T]) push(v T) {
	if r.n == len(r.buf) {
		buf := make([]T, max(8, 2*r.n))
		for i := range r.n {
			buf[i] = *r.at(i)
		}
		clear(r.buf) // which may not be ours alone
		r.buf, r.head = buf, 0
	}
	r.n++
	*r.at(r.n - 1) = v
}

// pop takes the first value, which there must be.
func (r *ring[T]) pop() T {
	var none T
	first := r.at(0)
	v := *first
	*first = none
	r.head = (r.head + 1) & (len(r.buf) - 1)
	r.n--
	return v
}
