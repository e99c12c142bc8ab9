package autobahn

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/heraldgo/herald/internal/frame"
	"github.com/heraldgo/herald/internal/test/wsraw"
)

// An ending is why a reader stopped.
type ending int

const (
	starved ending = iota // the bytes are over, and more could follow
	closed                // a close frame came
	failed                // a rule was broken
)

// An outcome is how a reader understands the bytes of a client.
type outcome struct {
	events []event
	begun  event // the unfinished message, if some of its payload has come
	ending ending

	header  bool   // if the library starved: whether that was inside a header
	code    uint16 // if it failed: the code for the client; 0 if there is none
	because error  // if it failed
}

// An event is a message or a control frame.
type event struct {
	kind    byte // as frame.Piece has it
	payload string
}

func (e event) String() string { return fmt.Sprintf("%#x %q", e.kind, e.payload) }

// FuzzDifferential gives the same bytes, cut at the same places, to
// internal/frame's Parser and to the WebSocket library. They must find the same
// messages and control frames, and end in the same way. excused lists the cases in
// which the library is laxer or slower than RFC 6455.
//
// The input is used twice: as the bytes of a client, and as a recipe for frames,
// which rarely fails at the first header.
func FuzzDifferential(f *testing.F) {
	masks := rand.New(rand.NewPCG(3, 4))
	for _, c := range cases {
		var sent []byte
		for _, s := range c.steps {
			if s.size() > 1<<10 {
				sent = nil
				break
			}
			sent = append(sent, bytes.Join(slices.Collect(s.writes(masks)), nil)...)
		}
		if len(sent) > 0 && len(sent) < 4<<10 {
			f.Add(sent, []byte{1, 1, 7}, uint16(0))
		}
	}
	for _, s := range []struct {
		sent  string
		limit uint16
	}{
		{"\x81\x01a", 0}, // not masked
		{"\x81\xff\x7f\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00a", 0},     // the longest length
		{"\x81\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00a", 0},     // a longer one
		{"\x81\xff\xff\xff\xff\xff\xff\xff\xff\xff", 0},                      // the same without its mask
		{"\x82\xfe\x00\x02\x00\x00\x00\x00ab", 2},                            // as long as the limit allows
		{"\x82\xfe\x00\x02\x00\x00\x00\x00ab", 1},                            // one more
		{"\x01\x82\x00\x00\x00\x00ab\x80\x81\x00\x00\x00\x00c", 2},           // one more with the last fragment
		{"\x88\x82\x00\x00\x00\x00\x03\xf6", 0},                              // 1014, which was defined after the RFC
		{"\x88\x82\x00\x00\x00\x00\x03\xf7", 0},                              // 1015, which must not be sent
		{"\x08\x82\x00\x00\x00\x00\x03\xe8", 0},                              // a fragmented close frame
		{"\x01\x81\x00\x00\x00\x00a\x88\x83\x00\x00\x00\x00\x03\xe8\xff", 0}, // a bad reason inside a message
	} {
		f.Add([]byte(s.sent), []byte{2, 5, 1}, s.limit)
	}
	f.Fuzz(func(t *testing.T, sent, cuts []byte, limit uint16) {
		if len(sent) > 8<<10 {
			return
		}
		for _, sent := range [][]byte{sent, frames(sent)} {
			ours := parse(t, pieces(bytes.Clone(sent), cuts), int64(limit))
			theirs := library(t, pieces(bytes.Clone(sent), cuts), int64(limit))
			if fault := compare(ours, theirs); fault != "" {
				t.Fatalf("%s\nsent    % x, cut at %d, limit %d\nours    %v\ntheirs  %v", fault, sent, cuts, limit, ours, theirs)
			}
		}
	})
}

// size returns about how many bytes the step sends.
func (s step) size() (n int) {
	for _, f := range s.frames {
		n += len(f.Payload)
	}
	return n
}

// pieces cuts b into pieces of these sizes. The rest is one piece.
func pieces(b, sizes []byte) (all [][]byte) {
	for _, size := range sizes {
		if n := min(int(size), len(b)); n > 0 {
			all = append(all, b[:n])
			b = b[n:]
		}
	}
	if len(b) > 0 {
		all = append(all, b)
	}
	return all
}

// frames makes frames from a recipe, which has for each an opcode with its bits, a
// size, a mask and the payload.
func frames(recipe []byte) (sent []byte) {
	firsts := []byte{0x81, 0x01, 0x00, 0x80, 0x82, 0x02, 0x89, 0x8a, 0x00, 0x80, 0x88, 0x83, 0x09, 0xc1}
	for len(recipe) >= 3 {
		first, size, mask := firsts[int(recipe[0])%len(firsts)], int(recipe[1])%24, recipe[2]
		recipe = recipe[3:]
		size = min(size, len(recipe))
		f := wsraw.Frame{
			Fin: first&0x80 != 0, RSV: first >> 4 & 7, Opcode: first & 15,
			Mask: [4]byte{mask, mask + 1, 0, ^mask}, Payload: recipe[:size],
		}
		sent = append(sent, f.Bytes()...)
		recipe = recipe[size:]
	}
	return sent
}

// parse reads with internal/frame.
func parse(t *testing.T, pieces [][]byte, limit int64) (o outcome) {
	p := frame.Parser{MaxMessage: limit}
	for _, b := range pieces {
		for len(b) > 0 {
			piece, rest, err := p.Next(b)
			if err != nil {
				var broken *frame.Error
				if !errors.As(err, &broken) {
					t.Fatalf("not a *frame.Error: %v", err)
				}
				o.ending, o.code, o.because = failed, broken.Code, err
				return o
			}
			b = rest
			switch piece.Kind {
			case frame.Text, frame.Binary:
				o.begun = event{piece.Kind, o.begun.payload + string(piece.Payload)}
				if piece.Last {
					o.events = append(o.events, o.begun)
					o.begun = event{}
				}
			case frame.Ping, frame.Pong, frame.Close:
				o.events = append(o.events, event{piece.Kind, string(piece.Payload)})
			}
			if piece.Kind == frame.Close {
				o.ending = closed
				return o
			}
		}
	}
	return o
}

// compare returns what is wrong with ours, or "".
func compare(ours, theirs outcome) string {
	for _, e := range ours.events {
		if e.kind == frame.Text && hopeless(e.payload, false) {
			return "we let text through that is not UTF-8"
		}
	}
	if ours.begun.kind == frame.Text && hopeless(ours.begun.payload, true) {
		return "we have not yet noticed that text is not UTF-8"
	}
	same := slices.Equal(ours.events, theirs.events)
	switch {
	case ours.ending == failed:
		if len(theirs.events) < len(ours.events) || !slices.Equal(ours.events, theirs.events[:len(ours.events)]) {
			return "other events before the failure"
		}
		if !excused(ours, theirs) && !(same && theirs.ending == failed && theirs.code == ours.code) {
			return "we alone fail like this"
		}
	case !same:
		return "other events"
	case ours.ending == starved && theirs.longLength():
		// We look at a length only when the mask behind it has come.
	case ours.ending != theirs.ending:
		return "another end"
	case ours.begun.payload != theirs.begun.payload, ours.begun.payload != "" && ours.begun.kind != theirs.begun.kind:
		return "another message has begun"
	}
	return ""
}

// excused reports whether, after we have failed, the library may end differently.
func excused(ours, theirs outcome) bool {
	later := theirs.events[len(ours.events):]
	switch ours.code {
	case frame.InvalidPayload:
		// The library does not check whether text (section 8.1) or a close frame's
		// reason (section 5.5.1) is UTF-8.
		for _, e := range later {
			if e.kind == frame.Text || e.kind == frame.Binary {
				return e.kind == frame.Text && hopeless(e.payload, false)
			}
		}
		if theirs.begun.kind == frame.Text && hopeless(theirs.begun.payload, true) {
			return true
		}
		return len(later) == 1 && later[0].kind == frame.Close && len(later[0].payload) > 2 && hopeless(later[0].payload[2:], false)
	case frame.MessageTooBig:
		// It fails when too many bytes have come, not when they are announced
		// (section 7.4.1 leaves that open).
		return len(later) == 0 && theirs.ending == starved && !theirs.header
	case frame.ProtocolError:
		if len(later) > 0 {
			return false
		}
		// It judges whole headers; we judge each byte (section 5.2).
		if theirs.ending == starved {
			return theirs.header
		}
		// It sends no close frame if a frame is not masked (section 5.1) or its
		// length has the highest bit set (section 5.2).
		return theirs.longLength() || theirs.silent("unmasked frame")
	}
	return false
}

// longLength reports whether the library failed because of a length with the
// highest bit set.
func (o outcome) longLength() bool { return o.silent("negative payload length") }

// silent reports whether the library failed for this reason without sending a close
// frame.
func (o outcome) silent(reason string) bool {
	return o.ending == failed && o.code == 0 && strings.Contains(o.because.Error(), reason)
}

// hopeless reports whether s is not UTF-8. If s goes on, it reports whether nothing
// that follows could make it UTF-8.
func hopeless(s string, goesOn bool) bool {
	for len(s) > 0 {
		if goesOn && !utf8.FullRuneInString(s) {
			return false
		}
		r, n := utf8.DecodeRuneInString(s)
		if r == utf8.RuneError && n == 1 {
			return true
		}
		s = s[n:]
	}
	return false
}
