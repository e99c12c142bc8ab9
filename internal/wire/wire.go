// Package wire reads and writes the parts of an envelope: numbers, strings and lists
// of strings. It does not trust what it reads.
package wire

import (
	"encoding/binary"
	"slices"
)

// AppendString appends a string and its length.
func AppendString(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

// AppendStrings appends a list of strings and their number.
func AppendStrings(b []byte, list []string) []byte {
	b = binary.AppendUvarint(b, uint64(len(list)))
	for _, s := range list {
		b = AppendString(b, s)
	}
	return b
}

// A Decoder takes values off Rest. After the first that is missing or malformed, Bad
// is set and all values are zero.
type Decoder struct {
	Rest  []byte
	Limit int // how many strings may still come in lists
	Bad   bool
}

// Byte takes a byte.
func (d *Decoder) Byte() byte {
	if d.Bad || len(d.Rest) == 0 {
		d.Bad = true
		return 0
	}
	b := d.Rest[0]
	d.Rest = d.Rest[1:]
	return b
}

// Uvarint takes what binary.AppendUvarint has appended.
func (d *Decoder) Uvarint() uint64 {
	v, n := binary.Uvarint(d.Rest)
	if d.Bad || n <= 0 {
		d.Bad = true
		return 0
	}
	d.Rest = d.Rest[n:]
	return v
}

// Varint takes what binary.AppendVarint has appended.
func (d *Decoder) Varint() int64 {
	v, n := binary.Varint(d.Rest)
	if d.Bad || n <= 0 {
		d.Bad = true
		return 0
	}
	d.Rest = d.Rest[n:]
	return v
}

// Bytes takes what AppendString has appended, as a part of Rest.
func (d *Decoder) Bytes() []byte {
	n := d.Uvarint()
	if d.Bad || n > uint64(len(d.Rest)) {
		d.Bad = true
		return nil
	}
	b := d.Rest[:n]
	d.Rest = d.Rest[n:]
	return b
}

// Text takes what AppendString has appended.
func (d *Decoder) Text() string { return string(d.Bytes()) }

// Names takes a list of strings none of which may be empty.
func (d *Decoder) Names() []string {
	list := d.Strings()
	if slices.Contains(list, "") {
		d.Bad = true
	}
	return list
}

// Strings takes what AppendStrings has appended.
func (d *Decoder) Strings() []string {
	n := d.Uvarint()
	if d.Bad || n > uint64(min(d.Limit, len(d.Rest))) { // each takes at least a byte
		d.Bad = true
		return nil
	}
	if n == 0 {
		return nil
	}
	d.Limit -= int(n)
	list := make([]string, 0, n)
	for range n {
		list = append(list, d.Text())
	}
	return list
}
