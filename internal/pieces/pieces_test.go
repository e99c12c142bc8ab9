package pieces

import (
	"bytes"
	"io"
	"testing"
	"testing/iotest"
)

func TestRead(t *testing.T) {
	for _, n := range []int{0, 1, size - 1, size, size + 1, 2 * size, 5*size + 3} {
		want := bytes.Repeat([]byte("ab"), n)[:n]
		pieces := 0
		got, err := Read(iotest.HalfReader(bytes.NewReader(want)), n, func() {
			if pieces++; pieces > n/size+3 {
				t.Fatalf("%d bytes come in %d pieces and more", n, pieces)
			}
		})
		if err != nil || !bytes.Equal(got, want) || pieces < n/size {
			t.Errorf("%d bytes: got %d in %d pieces, %v", n, len(got), pieces, err)
		}
		if n > 0 {
			if _, err := Read(bytes.NewReader(want[1:]), n, nil); err != io.ErrUnexpectedEOF && err != io.EOF {
				t.Errorf("%d bytes of %d: %v", n-1, n, err)
			}
		}
	}
}

// What is announced and does not come takes no room.
func TestReadAnnounced(t *testing.T) {
	n := testing.AllocsPerRun(10, func() { Read(bytes.NewReader(nil), 1<<40, nil) })
	if n > 4 {
		t.Errorf("%v allocations", n)
	}
}
