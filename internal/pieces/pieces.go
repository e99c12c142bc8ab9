// Package pieces reads data that is announced as large and may never come.
package pieces

import "io"

// size is the most memory, in bytes, that is allocated before the first byte comes.
const size = 1 << 20

// Read reads n bytes. It allocates memory as they come, not as they are announced. It
// calls came, if that is not nil, after each piece.
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
