// Package pieces reads what may be large, and is not to be trusted to come.
package pieces

import "io"

// size is the most room that is made for bytes before they come.
const size = 1 << 20

// Read reads n bytes. It makes room as they come, not as they are announced, and
// calls came, which may be nil, after each piece.
func Read(r io.Reader, n int, came func()) ([]byte, error) {
	b := make([]byte, min(n, size))
	for read := 0; ; {
		if _, err := io.ReadFull(r, b[read:min(len(b), read+size)]); err != nil {
			return nil, err
		}
		if came != nil {
			came()
		}
		if read = min(len(b), read+size); read < len(b) {
			continue
		}
		if read == n {
			return b, nil
		}
		more := make([]byte, min(n, 2*read))
		copy(more, b)
		b = more
	}
}
