package autobahn

import (
	"fmt"
	"slices"

	"github.com/heraldgo/herald/internal/test/wsraw"
)

// payload is as long as the longest message. It is ASCII, and no part of it
// repeats. All frames are slices of it.
var payload = func() []byte {
	var b []byte
	for len(b) < most {
		b = fmt.Appendf(b, "%d ", len(b))
	}
	return b[:most]
}()

// limits returns section 9 and the only case of section 10: large messages, in one
// frame, in fragments and in chops, and a thousand messages, each sent after the
// echo of the one before.
func limits() (tests []testcase) {
	for i, opcode := range []byte{wsraw.Text, wsraw.Binary} {
		message := func(n int) wsraw.Frame {
			return wsraw.Frame{Fin: true, Opcode: opcode, Payload: payload[:n]}
		}
		number := func(section, j int) string { return fmt.Sprintf("9.%d.%d", section+i, 1+j) }
		for j, n := range []int{64 << 10, 256 << 10, 1 << 20, 4 << 20, 8 << 20, 16 << 20} {
			tests = append(tests, honest(number(1, j), echoed(message(n))))
		}
		for j := range 9 { // fragments of 64 B to 4 MiB
			whole := message(4 << 20)
			tests = append(tests, honest(number(3, j), send(fragments(whole, 64<<(2*j))...).want(whole)))
		}
		for j := range 6 { // chops of 64 B to 2 KiB
			tests = append(tests, honest(number(5, j), echoed(message(1<<20)).chopped(64<<j)))
		}
		for j, n := range []int{0, 16, 64, 256, 1024, 4096} {
			tests = append(tests, honest(number(7, j), slices.Repeat([]step{echoed(message(n))}, 1000)...))
		}
	}
	whole := wsraw.Frame{Fin: true, Opcode: wsraw.Text, Payload: payload[:65536]}
	return append(tests, honest("10.1.1", send(fragments(whole, 1300)...).want(whole)))
}
