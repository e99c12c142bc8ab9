package protocol_test

import (
	"net/url"
	"strings"
	"testing"

	"github.com/heraldgo/herald/internal/history/device"
	"github.com/heraldgo/herald/internal/history/protocol"
)

// A server's frame that can be read is written as one that reads the same, and
// nothing panics.
func FuzzFrame(f *testing.F) {
	var v vectors
	load(f, "frames.json", &v)
	for _, vector := range v.Server {
		f.Add([]byte(vector.Frame))
	}
	for _, frame := range append(v.Refused, v.Ignored...) {
		f.Add([]byte(frame))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		frame, err := protocol.ParseFrame(data)
		if err != nil || frame.Kind == 0 {
			return
		}
		written := append(protocol.AppendHeader(nil, &frame), frame.Body...)
		if n := strings.Count(string(written[:len(written)-len(frame.Body)]), "\n"); n != 1 {
			t.Fatalf("%q: a header of %d lines", data, n)
		}
		if frame.Kind == device.Gap {
			return // JSON does not have all times
		}
		if again, err := protocol.ParseFrame(written); err != nil || !same(again, frame) {
			t.Errorf("%q is written as %q, which is %+v, %v", data, written, again, err)
		}
	})
}

// A client's message that can be read is written as one that reads the same.
func FuzzControl(f *testing.F) {
	var v vectors
	load(f, "frames.json", &v)
	for _, vector := range v.Client {
		f.Add([]byte(vector.Frame))
	}
	for _, frame := range v.ClientRefused {
		f.Add([]byte(frame))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := protocol.ParseControl(data)
		if err != nil {
			return
		}
		if written := protocol.AppendControl(nil, &c); string(written) != string(data) {
			t.Errorf("%q is written as %q", data, written)
		}
	})
}

// A query that is accepted is written as one that says the same.
func FuzzQuery(f *testing.F) {
	var v vectors
	load(f, "frames.json", &v)
	for _, vector := range v.Queries {
		f.Add(vector.Query)
	}
	for _, text := range append(v.QueriesRefused, v.QueriesPlain...) {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		values, err := url.ParseQuery(text)
		if err != nil {
			return
		}
		r, asks, err := protocol.ParseQuery(values)
		if err != nil || !asks {
			return
		}
		again, asks, err := parseQuery(t, r.AddTo(""))
		if !asks || err != nil || again.AddTo("") != r.AddTo("") {
			t.Errorf("%q is written as %q: %v", text, r.AddTo(""), err)
		}
	})
}

// A saved position is accepted only in the form in which it is written.
func FuzzSaved(f *testing.F) {
	f.Add("0.a.1,3.b.2 c.2,c.1")
	f.Add(" c.1")
	f.Fuzz(func(t *testing.T, text string) {
		var r protocol.Resume
		if r.UnmarshalText([]byte(text)) != nil {
			return
		}
		if b, err := r.MarshalText(); err != nil || string(b) != text {
			t.Errorf("%q comes back as %q, %v", text, b, err)
		}
	})
}
