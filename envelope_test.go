package herald

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/heraldgo/herald/internal/wire"
)

// extend puts extensions into an encoded envelope: tags with their values.
func extend(b []byte, extensions ...any) []byte {
	var section []byte
	for i := 0; i < len(extensions); i += 2 {
		section = binary.AppendUvarint(section, uint64(extensions[i].(int)))
		section = wire.AppendString(section, extensions[i+1].(string))
	}
	b = bytes.Clone(b)
	b[2] |= flagExtended
	return append(wire.AppendString(b[:3:3], string(section)), b[3:]...)
}

// A node skips the extensions that it does not know, whatever they carry, and
// says of critical ones that it can not.
func TestExtensions(t *testing.T) {
	for _, e := range envelopes() {
		b := e.encode()
		want, err := decodeEnvelope(b, fuzzFrame)
		if err != nil {
			t.Fatal(err)
		}
		for _, skipped := range [][]any{{}, {2, ""}, {2, "a", 300, "\xff\x00"}, {1 << 30, strings.Repeat("x", 4000)}} {
			got, err := decodeEnvelope(extend(b, skipped...), fuzzFrame)
			if err != nil {
				t.Errorf("kind %d with extensions %.50q: %v", e.kind, skipped, err)
			} else if !bytes.Equal(got.frame, want.frame) || got.sender != want.sender || got.id != want.id {
				t.Errorf("kind %d with extensions %.50q is read as %+v", e.kind, skipped, got)
			}
		}
		for _, critical := range [][]any{{1, ""}, {2, "a", 301, "b"}} {
			if _, err := decodeEnvelope(extend(b, critical...), fuzzFrame); err == nil || !strings.Contains(err.Error(), "extension") {
				t.Errorf("kind %d with extensions %q: %v", e.kind, critical, err)
			}
		}
		cut := extend(b, 2, "ab")
		cut[5]++ // the value ends after its section
		for _, bad := range [][]byte{cut, extend(b, 2, strings.Repeat("x", maxExtensions))} {
			if _, err := decodeEnvelope(bad, fuzzFrame); err == nil {
				t.Errorf("kind %d: bad extensions were taken", e.kind)
			}
		}
	}
}
