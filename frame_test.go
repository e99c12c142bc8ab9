package herald

import (
	"bytes"
	"testing"
)

// clientFrame makes a masked frame (RFC 6455 section 5.3).
func clientFrame(first byte, payload []byte) []byte {
	mask := []byte{0x12, 0x34, 0xff, 0x00}
	b := append([]byte{first, 0x80 | byte(len(payload))}, mask...)
	for i, c := range payload {
		b = append(b, c^mask[i%4])
	}
	return b
}

// A ping or pong is taken off the front only where all of it is there, and
// nothing is wrong with it; its pong has the ping's payload.
func TestCutControl(t *testing.T) {
	next := clientFrame(finalText, []byte("next"))
	for n := range maxControl + 1 {
		payload := bytes.Repeat([]byte("0123456789"), 13)[:n]
		for _, first := range []byte{finalPing, finalPong} {
			whole := clientFrame(first, payload)
			frame, ok := cutControl(append(bytes.Clone(whole), next...))
			if !ok || !bytes.Equal(frame, whole) {
				t.Fatalf("%#x of %d bytes: got %x, %t", first, n, frame, ok)
			}
			for cut := range whole {
				if _, ok := cutControl(whole[:cut]); ok {
					t.Fatalf("%#x of %d bytes, of which %d are there, was taken", first, n, cut)
				}
			}
			if pong := pongFor(frame); !bytes.Equal(pong, append([]byte{finalPong, byte(n)}, payload...)) {
				t.Fatalf("the pong for %d bytes is %x", n, pong)
			}
		}
	}
}

// Anything else is for the library, which answers it as it deserves.
func TestCutControlLeaves(t *testing.T) {
	unmasked := clientFrame(finalPing, []byte("0123456789"))
	unmasked[1] &^= 0x80
	for name, b := range map[string][]byte{
		"text":             clientFrame(finalText, nil),
		"close":            clientFrame(finalClose, nil),
		"unmasked ping":    unmasked,
		"fragmented ping":  clientFrame(finalPing&^0x80, nil),
		"RSV1 on a ping":   clientFrame(finalPing|0x40, nil),
		"ping of 16 bits":  append(clientFrame(finalPing, make([]byte, 126)), make([]byte, 100)...),
		"ping of 64 bits":  append(clientFrame(finalPing, make([]byte, 127)), make([]byte, 100)...),
		"reserved control": clientFrame(0x8b, nil),
	} {
		if frame, ok := cutControl(b); ok {
			t.Errorf("%s was taken: %x", name, frame)
		}
	}
}

// Nobody can change a text by its bytes.
func TestMessageBytes(t *testing.T) {
	for _, m := range []Message{Text("text"), Text(""), Binary([]byte("text")), JSON("text")} {
		want := m.String()
		if got := string(m.Bytes()); got != want || m.len() != len(want) {
			t.Errorf("Bytes: %q, String: %q, length %d", got, want, m.len())
		}
	}
	m := Text("text")
	m.Bytes()[0] = 'n'
	if m.String() != "text" {
		t.Errorf("the text has become %q", m)
	}
}
