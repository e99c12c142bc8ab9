package resp_test

import (
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/heraldgo/herald/internal/resp"
)

func TestAppend(t *testing.T) {
	b := resp.AppendCommand(nil, 3)
	b = resp.AppendWord(b, "PUBLISH")
	b = resp.AppendJoined(b, "a:", "\r\n")
	b = resp.AppendWord(b, []byte{})
	if got, want := string(b), "*3\r\n$7\r\nPUBLISH\r\n$4\r\na:\r\n\r\n$0\r\n\r\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestCommands(t *testing.T) {
	want := []string{"*1\r\n$5\r\nHELLO\r\n", "*2\r\n$0\r\n\r\n$4\r\n\r\n$1\r\n", "*1\r\n$11\r\n*1\r\n$1\r\na\r\n\r\n"}
	got := 0
	for command := range resp.Commands([]byte(strings.Join(want, ""))) {
		if string(command) != want[got] {
			t.Errorf("command %d: got %q, want %q", got, command, want[got])
		}
		got++
	}
	if got != len(want) {
		t.Errorf("got %d commands, want %d", got, len(want))
	}
}

func read(r *resp.Reader) (resp.Value, error) {
	h, err := r.Header()
	if err != nil {
		return resp.Value{}, err
	}
	return r.Rest(h)
}

func TestRead(t *testing.T) {
	type v = resp.Value
	for in, want := range map[string]v{
		"+OK\r\n":                    {Kind: '+', Str: "OK"},
		"-ERR no\r\n":                {Kind: '-', Str: "ERR no"},
		"!6\r\nERR no\r\n":           {Kind: '-', Str: "ERR no"},
		":-12\r\n":                   {Kind: ':', Int: -12},
		"$4\r\na\r\nb\r\n":           {Kind: '$', Str: "a\r\nb"},
		"$-1\r\n":                    {Kind: '_'},
		"$0\r\n\r\n":                 {Kind: '$'},
		":999999999999999999\r\n":    {Kind: ':', Int: 999999999999999999},
		"_\r\n":                      {Kind: '_'},
		"#t\r\n":                     {Kind: '#', Str: "t"},
		"*-1\r\n":                    {Kind: '*'},
		"*0\r\n":                     {Kind: '*'},
		"%1\r\n+role\r\n+master\r\n": {Kind: '%', Elems: []v{{Kind: '+', Str: "role"}, {Kind: '+', Str: "master"}}},
		">2\r\n:1\r\n~1\r\n,1.5\r\n": {Kind: '>', Elems: []v{{Kind: ':', Int: 1}, {Kind: '~', Elems: []v{{Kind: ',', Str: "1.5"}}}}},
	} {
		got, err := read(resp.NewReader(iotest.OneByteReader(strings.NewReader(in)), 64))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: got %+v, %v, want %+v", in, got, err, want)
		}
	}
}

func TestReadFaults(t *testing.T) {
	for in, want := range map[string]error{
		"":                             io.EOF,
		"+OK":                          io.EOF,
		"$4\r\nab":                     io.ErrUnexpectedEOF,
		"$2\r\nabc\r\n":                resp.ErrProtocol,
		"?\r\n\r\n":                    resp.ErrProtocol,
		"+\n\n":                        resp.ErrProtocol,
		":\r\n":                        resp.ErrProtocol,
		":1x\r\n":                      resp.ErrProtocol,
		"$-2\r\n":                      resp.ErrProtocol,
		"$999999999999\r\n":            resp.ErrProtocol,
		"*99999999\r\n":                resp.ErrProtocol,
		strings.Repeat("*1\r\n", 20):   resp.ErrProtocol,
		"+" + strings.Repeat("x", 100): resp.ErrProtocol,
	} {
		if _, err := read(resp.NewReader(strings.NewReader(in), 64)); !errors.Is(err, want) {
			t.Errorf("%q: got %v, want %v", in, err, want)
		}
	}
	r := resp.NewReader(strings.NewReader("$70\r\n"+strings.Repeat("x", 70)+"\r\n"), 64)
	if _, err := r.Peek(); !errors.Is(err, resp.ErrProtocol) {
		t.Errorf("Peek of more than the buffer: %v", err)
	}
	r = resp.NewReader(strings.NewReader(":1\r\n"), 64)
	if _, err := r.Bulk(); !errors.Is(err, resp.ErrProtocol) {
		t.Errorf("Bulk of a number: %v", err)
	}
}

// A bulk string is peeked at if it fits in the buffer with its end.
func TestPeek(t *testing.T) {
	for n, fits := range map[int]bool{0: true, 10: true, 62: true, 63: false} {
		want := strings.Repeat("x", n)
		r := resp.NewReader(strings.NewReader(string(resp.AppendWord(nil, want))+"+OK\r\n"), 64)
		got, err := r.Peek()
		if fits && (err != nil || string(got) != want) || !fits && !errors.Is(err, resp.ErrProtocol) {
			t.Errorf("%d bytes: got %q, %v", n, got, err)
		}
		if h, err := r.Header(); fits && (err != nil || h.Line != "OK") {
			t.Errorf("behind %d bytes: got %v, %v", n, h, err)
		}
	}
	for in, want := range map[string]error{"$-1\r\n": resp.ErrProtocol, "+OK\r\n": resp.ErrProtocol, "$2\r\na": io.EOF, "$2\r\nabcd": resp.ErrProtocol, "": io.EOF} {
		if _, err := resp.NewReader(strings.NewReader(in), 64).Peek(); !errors.Is(err, want) {
			t.Errorf("%q: got %v, want %v", in, err, want)
		}
	}
}

// Bulk reads a string of no bytes, and no other kind of reply.
func TestBulk(t *testing.T) {
	if b, err := resp.NewReader(strings.NewReader("$0\r\n\r\n"), 64).Bulk(); err != nil || len(b) != 0 {
		t.Errorf("got %q, %v", b, err)
	}
	if _, err := resp.NewReader(strings.NewReader("$-1\r\n"), 64).Bulk(); !errors.Is(err, resp.ErrProtocol) {
		t.Errorf("null: %v", err)
	}
}

// BulkLent lends memory for the strings, with their ends, that loan lends memory for, and
// reads the others all the same.
func TestBulkLent(t *testing.T) {
	for _, n := range []int{0, 10, 510, 511, 1000, 64<<10 - 2, 64<<10 - 1, 100_000} {
		want := strings.Repeat("x", n)
		b, lent, err := resp.NewReader(iotest.HalfReader(strings.NewReader(string(resp.AppendWord(nil, want)))), 64).BulkLent()
		if err != nil || string(b) != want || cap(b) != n {
			t.Errorf("%d bytes: got %d with room for %d, %v", n, len(b), cap(b), err)
		}
		switch lends := n+2 > 512 && n+2 <= 64<<10; {
		case lends != (lent != nil):
			t.Errorf("%d bytes: lent %v", n, lent != nil)
		case lent != nil && &lent.Bytes[0] != &b[0]:
			t.Errorf("%d bytes lie elsewhere", n)
		}
		lent.Release()
	}
	for in, want := range map[string]error{
		"":                                    io.EOF,
		"$-1\r\n":                             resp.ErrProtocol,
		"+OK\r\n":                             resp.ErrProtocol,
		"$536870913\r\n":                      resp.ErrProtocol,
		"$9\r\nab":                            io.ErrUnexpectedEOF,
		"$1000\r\nab":                         io.ErrUnexpectedEOF,
		"$2\r\nabcd":                          resp.ErrProtocol,
		"$600\r\n" + strings.Repeat("x", 602): resp.ErrProtocol,
	} {
		if b, _, err := resp.NewReader(strings.NewReader(in), 64).BulkLent(); !errors.Is(err, want) || b != nil {
			t.Errorf("%.20q: got %d bytes, %v, want %v", in, len(b), err, want)
		}
	}
}

// Reply reads what has no more elements and bytes than it is told.
func TestReply(t *testing.T) {
	for in, want := range map[string]error{
		"*2\r\n:1\r\n$3\r\nabc\r\n":      nil,
		"*3\r\n:1\r\n:2\r\n:3\r\n":       resp.ErrProtocol,
		"*2\r\n$2\r\nab\r\n$2\r\nab\r\n": resp.ErrProtocol,
		"?\r\n":                          resp.ErrProtocol,
		"":                               io.EOF,
	} {
		v, err := resp.NewReader(strings.NewReader(in), 64).Reply(2, 3)
		if !errors.Is(err, want) || err == nil && len(v.Elems) != 2 {
			t.Errorf("%q: got %+v, %v, want %v", in, v, err, want)
		}
	}
}

func TestField(t *testing.T) {
	str := func(s string) resp.Value { return resp.Value{Kind: '+', Str: s} }
	v := resp.Value{Kind: '%', Elems: []resp.Value{str("role"), str("master"), str("proto"), str("role"), str("odd")}}
	for key, want := range map[string]string{"role": "master", "proto": "role", "master": "", "odd": "", "id": ""} {
		if got := v.Field(key); got != want {
			t.Errorf("%s: got %q, want %q", key, got, want)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte("%1\r\n+role\r\n$6\r\nmaster\r\n>3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nb\r\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := resp.NewReader(strings.NewReader(string(in)), 64)
		for {
			if _, err := read(r); err != nil {
				return
			}
		}
	})
}
