package herald

import (
	"bytes"
	"strings"
	"testing"

	"github.com/heraldgo/herald/internal/wsframe"
)

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

// A close frame is read as it was written.
func TestCloseFrame(t *testing.T) {
	for _, reason := range []string{"", "too slow", strings.Repeat("r", 123)} {
		b := closeFrame(StatusTooSlow, reason)
		payload, ok := wsframe.Payload(b)
		if !ok || b[0] != wsframe.Close {
			t.Fatalf("close frame % x", b)
		}
		c := parseClose(payload)
		if c.Code != StatusTooSlow || c.Reason != reason || !bytes.Equal(closeFrame(c.Code, c.Reason), b) {
			t.Errorf("reason %q is read as %v", reason, c)
		}
	}
	if c := parseClose(nil); c.Code != statusNone || c.Reason != "" {
		t.Errorf("no code is read as %v", c)
	}
}
