package frame

import (
	"bytes"
	"testing"
)

// A payload has the header that its length asks for, and no other is taken.
func TestPayload(t *testing.T) {
	for _, test := range []struct {
		n      int
		header []byte
	}{
		{0, []byte{Binary, 0}},
		{125, []byte{Binary, 125}},
		{126, []byte{Binary, 126, 0, 126}},
		{1<<16 - 1, []byte{Binary, 126, 0xff, 0xff}},
		{1 << 16, []byte{Binary, 127, 0, 0, 0, 0, 0, 1, 0, 0}},
	} {
		b := AppendHeader(nil, Binary, test.n)
		if !bytes.Equal(b, test.header) || len(b) > MaxHeader {
			t.Errorf("the header for %d bytes is % x", test.n, b)
		}
		whole := append(b, make([]byte, test.n)...)
		if payload, ok := Payload(whole); !ok || len(payload) != test.n {
			t.Errorf("%d bytes: got %d, %v", test.n, len(payload), ok)
		}
		if _, ok := Payload(append(whole, 0)); ok {
			t.Errorf("%d bytes and one more were taken", test.n)
		}
		for cut := range min(len(whole), 20) {
			if _, ok := Payload(whole[:cut]); ok {
				t.Errorf("%d bytes of a frame of %d were taken", cut, test.n)
			}
		}
	}
	if longest := len(AppendHeader(nil, Binary, 1<<16)); longest != MaxHeader || longest+len("mask") != MaxClientHeader {
		t.Errorf("the longest header has %d bytes", longest)
	}
	for _, longer := range [][]byte{
		append([]byte{Binary, 126, 0, 125}, make([]byte, 125)...),
		append([]byte{Binary, 127, 0, 0, 0, 0, 0, 0, 0xff, 0xff}, make([]byte, 1<<16-1)...),
		{Binary, 0x80, 0, 0, 0, 0}, // masked
	} {
		if _, ok := Payload(longer); ok {
			t.Errorf("% x was taken", longer[:4])
		}
	}
}

// Messages alone may reach a client this way, and text in UTF-8.
func TestValid(t *testing.T) {
	for _, test := range []struct {
		frame string
		want  bool
	}{
		{"", false}, {"\x81", false},
		{"\x81\x00", true}, {"\x82\x00", true}, {"\x81\x02\xc3\xa9", true},
		{"\x81\x01\xc3", false}, {"\x82\x01\xc3", true},
		{"\x01\x00", false}, {"\x80\x00", false}, {"\xc1\x00", false},
		{"\x88\x00", false}, {"\x89\x00", false}, {"\x8a\x00", false},
	} {
		if got := Valid([]byte(test.frame)); got != test.want {
			t.Errorf("%x: %v", test.frame, got)
		}
	}
}

// What is valid is what would be written for its payload: nothing else reaches
// a client.
func FuzzFrame(f *testing.F) {
	for _, n := range []int{0, 1, 125, 126, 127, 1<<16 - 1, 1 << 16} {
		f.Add(append(AppendHeader(nil, Binary, n), make([]byte, n)...))
	}
	f.Add([]byte("\x81\x02\xc3\xa9"))
	f.Add([]byte{Ping, 0})
	f.Add([]byte{Close, 2, 0x03, 0xe8})
	f.Add([]byte{Text, 126, 0, 1, 'a'})
	f.Add([]byte{Text, 127, 0x80, 0, 0, 0, 0, 0, 0, 1, 'a'})
	f.Fuzz(func(t *testing.T, b []byte) {
		payload, ok := Payload(b)
		if Valid(b) && !ok {
			t.Fatalf("% x is valid and has no payload", b[:min(len(b), 20)])
		}
		if !ok {
			return
		}
		if got := append(AppendHeader(nil, b[0], len(payload)), payload...); !bytes.Equal(got, b) {
			t.Fatalf("taken % x, written % x", b[:min(len(b), 20)], got[:min(len(got), 20)])
		}
	})
}
