package autobahn

import (
	"iter"
	"math/rand/v2"
	"slices"

	"github.com/heraldgo/herald/internal/test/wsraw"
)

// The close codes of RFC 6455 section 7.4.1 that a case can end with.
const (
	normal         = 1000
	protocolError  = 1002
	noCode         = 1005 // stands for a close frame without a code
	invalidPayload = 1007
)

// A step is what the client sends, and what the server must answer before the
// client goes on.
type step struct {
	frames []wsraw.Frame
	chop   int // how the frames are cut into writes
	most   int // the number of bytes that are sent; 0 means all
	answer []wsraw.Frame
}

// These values of step.chop are not numbers of bytes.
const (
	together  = 0
	framewise = -1
)

// send returns a step that sends frames in one write, and waits for nothing.
func send(frames ...wsraw.Frame) step { return step{frames: frames} }

// framewise sends each frame in a write of its own.
func (s step) framewise() step { s.chop = framewise; return s }

// chopped sends n bytes in each write.
func (s step) chopped(n int) step { s.chop = n; return s }

// bytewise sends each byte in a write of its own.
func (s step) bytewise() step { return s.chopped(1) }

// upTo sends no more than the first n bytes.
func (s step) upTo(n int) step { s.most = n; return s }

// want waits for exactly these frames before the next step.
func (s step) want(frames ...wsraw.Frame) step { s.answer = frames; return s }

// writes yields the bytes of each write. Each frame has another mask.
func (s step) writes(masks *rand.Rand) iter.Seq[[]byte] {
	var all []byte
	var ends []int // of frames
	for _, f := range s.frames {
		for i := range f.Mask {
			f.Mask[i] = byte(masks.Uint32())
		}
		all = append(all, f.Bytes()...)
		ends = append(ends, len(all))
	}
	if s.most > 0 {
		all = all[:s.most]
	}
	switch s.chop {
	case together:
		return slices.Values([][]byte{all})
	case framewise:
		return func(yield func([]byte) bool) {
			from := 0
			for _, end := range ends {
				if !yield(all[from:end]) {
					return
				}
				from = end
			}
		}
	default:
		return slices.Chunk(all, s.chop)
	}
}

// Frames.

func text(s string) wsraw.Frame { return single(wsraw.Text, s) }

func bin(s string) wsraw.Frame { return single(wsraw.Binary, s) }

func ping(s string) wsraw.Frame { return single(wsraw.Ping, s) }

func pong(s string) wsraw.Frame { return single(wsraw.Pong, s) }

func single(opcode byte, s string) wsraw.Frame {
	return wsraw.Frame{Fin: true, Opcode: opcode, Payload: []byte(s)}
}

// more and last are continuations. more is not the last frame of its message, and
// last is (RFC 6455 section 5.4).

func more(s string) wsraw.Frame { return begun(single(wsraw.Continuation, s)) }

func last(s string) wsraw.Frame { return single(wsraw.Continuation, s) }

// begun removes FIN from a frame.
func begun(f wsraw.Frame) wsraw.Frame { f.Fin = false; return f }

// reserved sets reserved bits of a frame.
func reserved(bits byte, f wsraw.Frame) wsraw.Frame { f.RSV = bits; return f }

// fragments returns a message in frames of n bytes.
func fragments(f wsraw.Frame, n int) []wsraw.Frame {
	var frames []wsraw.Frame
	opcode := f.Opcode
	for part := range slices.Chunk(f.Payload, n) {
		frames = append(frames, wsraw.Frame{Opcode: opcode, Payload: part})
		opcode = wsraw.Continuation
	}
	frames[len(frames)-1].Fin = true
	return frames
}

// Cases.

// honest returns a case in which the client keeps to the rules, and then closes.
func honest(number string, steps ...step) testcase {
	return testcase{number, append(steps, send(wsraw.CloseFrame(normal, ""))), []uint16{normal}}
}

// broken returns a case in which the client breaks a rule, and the server fails the
// connection with code.
func broken(number string, code uint16, steps ...step) testcase {
	return testcase{number, steps, []uint16{code}}
}

// closing returns a case in which the client sends frames in one write, and the
// server answers with a close frame that has one of the codes. Unless the number
// says otherwise, the first frame is a close frame.
func closing(number string, codes []uint16, frames ...wsraw.Frame) testcase {
	return testcase{number, []step{send(frames...)}, codes}
}
