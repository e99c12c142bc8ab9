package wire

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"
)

// What was appended is taken, in its order, and what is cut is refused.
func TestDecoder(t *testing.T) {
	b := []byte{7}
	b = binary.AppendUvarint(b, 1<<64-1)
	b = binary.AppendVarint(b, -1<<63)
	b = AppendString(b, "text")
	b = AppendStrings(b, []string{"a", ""})
	b = AppendStrings(b, nil)
	b = AppendStrings(b, []string{"name"})
	take := func(d *Decoder) bool {
		return d.Byte() == 7 && d.Uvarint() == 1<<64-1 && d.Varint() == -1<<63 && d.Text() == "text" &&
			slices.Equal(d.Strings(), []string{"a", ""}) && d.Strings() == nil && slices.Equal(d.Names(), []string{"name"})
	}
	d := Decoder{Rest: append(bytes.Clone(b), "rest"...), Limit: 3}
	if !take(&d) || d.Bad || string(d.Rest) != "rest" || d.Limit != 0 {
		t.Errorf("left is %+v", d)
	}
	for n := range b {
		if d := (Decoder{Rest: b[:n], Limit: 3}); take(&d) || !d.Bad {
			t.Errorf("%d of %d bytes were taken", n, len(b))
		}
	}
	if d := (Decoder{Rest: b, Limit: 2}); take(&d) || !d.Bad {
		t.Error("more strings than the limit were taken")
	}
}

// Nothing is taken after what was bad.
func TestDecoderBad(t *testing.T) {
	d := Decoder{Rest: []byte{1, 1, 'a'}, Limit: 10, Bad: true}
	if d.Byte() != 0 || d.Uvarint() != 0 || d.Varint() != 0 || d.Bytes() != nil || d.Text() != "" || d.Strings() != nil || d.Names() != nil || len(d.Rest) != 3 {
		t.Errorf("something was taken, left is %+v", d)
	}
	for name, b := range map[string][]byte{
		"a number that does not end": bytes.Repeat([]byte{0xff}, 9),
		"a number of 65 bits":        append(bytes.Repeat([]byte{0xff}, 9), 2),
		"a length of 64 bits":        binary.AppendUvarint(nil, 1<<64-1),
		"a string that is cut":       {2, 'a'},
	} {
		d := Decoder{Rest: b, Limit: 10}
		if v := d.Bytes(); v != nil || !d.Bad {
			t.Errorf("%s: %q", name, v)
		}
	}
	for name, b := range map[string][]byte{
		"more strings than bytes": {3, 0, 0},
		"a string that is cut":    {2, 0, 1},
	} {
		d := Decoder{Rest: b, Limit: 10}
		if d.Strings(); !d.Bad {
			t.Errorf("%s was taken", name)
		}
	}
	d = Decoder{Rest: []byte{2, 1, 'a', 0}, Limit: 10}
	if d.Names(); !d.Bad {
		t.Error("an empty name was taken")
	}
}

// Bytes are a part of what is read; texts are copies.
func TestDecoderShares(t *testing.T) {
	b := AppendString(AppendString(nil, "bytes"), "text")
	d := Decoder{Rest: b}
	got, text := d.Bytes(), d.Text()
	clear(b)
	if string(got) != "\x00\x00\x00\x00\x00" || text != "text" {
		t.Errorf("%q, %q", got, text)
	}
}
