package deflate

import (
	"bytes"
	"compress/flate"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"

	"github.com/heraldgo/herald/internal/frame"
	"github.com/heraldgo/herald/internal/test/wsraw"
)

// plain returns the frame of a message.
func plain(kind byte, payload string) []byte {
	return append(frame.AppendHeader(nil, kind, len(payload)), payload...)
}

// packed returns the frame of a message that came compressed.
func packed(kind byte, payload string) []byte { return plain(kind|frame.Compressed, payload) }

// noise returns n bytes without repetitions.
func noise(n int) string {
	r := rand.NewChaCha8([32]byte{})
	b := make([]byte, n)
	r.Read(b)
	return string(b)
}

// compress is a client's compressor.
func compress(t testing.TB, level int, parts ...string) string {
	t.Helper()
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, level)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range parts {
		io.WriteString(w, part)
		w.Flush()
	}
	return strings.TrimSuffix(b.String(), flushed)
}

// A message has memory for a byte more than its limit, and for no more than it needs.
func TestRoom(t *testing.T) {
	for _, test := range []struct {
		n     int
		limit int64
		want  int
	}{
		{0, 0, 64}, {65, 0, 65}, {1 << 30, 0, 1 << 30},
		{0, 1, 2}, {64, 63, 64}, {64, 64, 65}, {64, 65, 64},
		{0, 100, 64}, {99, 100, 99}, {100, 100, 101}, {101, 100, 101}, {1 << 30, 100, 101},
	} {
		if got := room(test.n, test.limit); got != test.want {
			t.Errorf("%d bytes of at most %d have room for %d, want %d", test.n, test.limit, got, test.want)
		}
	}
}

// An inflater's source is the message and then end, whichever way it is read.
func TestSource(t *testing.T) {
	const message = "abc"
	const all = message + end
	for singly := range len(all) + 1 { // so many bytes, and then as many as there are
		i := inflater{payload: []byte(message)}
		var got []byte
		for range singly {
			b, err := i.ReadByte()
			if got = append(got, b); err != nil {
				t.Fatalf("behind %q: %v", got, err)
			}
		}
		for len(got) < len(all) {
			p := make([]byte, 20)
			n, err := i.Read(p)
			if got = append(got, p[:n]...); n == 0 || err != nil {
				t.Fatalf("behind %q: %d bytes, %v", got, n, err)
			}
		}
		if string(got) != all {
			t.Errorf("%d bytes singly: %q", singly, got)
		}
		if n, err := i.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Errorf("behind all: %d bytes, %v", n, err)
		}
		if _, err := i.ReadByte(); err != io.EOF {
			t.Errorf("behind all: a byte, %v", err)
		}
	}
}

// What is compressed is shorter, and is what it was when it is inflated: by Inflate, and
// by whoever follows RFC 7692 section 7.2.2.
func TestCompress(t *testing.T) {
	for _, kind := range []byte{frame.Text, frame.Binary} {
		for _, size := range []int{MinSize, MinSize + 1, 4 << 10, 64<<10 - 1, 64 << 10, 300_000} {
			want := plain(kind, strings.Repeat(`{"price":1234.5,"name":"x"},`, size)[:size])
			got := Compress(want)
			if got[0] != kind|frame.Compressed || len(got) >= len(want)/2 || cap(got) != len(got) {
				t.Fatalf("%d bytes: % x of %d bytes, with room for %d", size, got[:4], len(got), cap(got))
			}
			payload, ok := frame.Payload(got)
			if !ok || bytes.HasSuffix(payload, []byte(flushed)) {
				t.Fatalf("%d bytes: no frame, or its end is not left out", size)
			}
			read, err := io.ReadAll(flate.NewReader(strings.NewReader(string(payload) + "\x00\x00\xff\xff" + "\x01\x00\x00\xff\xff")))
			whole, _ := frame.Payload(want)
			if err != nil || !bytes.Equal(read, whole) {
				t.Fatalf("%d bytes: %d come out: %v", size, len(read), err)
			}
			if again, err := Inflate(got, int64(len(whole))); err != nil || !bytes.Equal(again, want) || cap(again) != len(again) {
				t.Fatalf("%d bytes: Inflate returns %d: %v", size, len(again), err)
			}
		}
	}
}

// What is short, or does not become shorter, goes as it is.
func TestCompressLeavesAlone(t *testing.T) {
	for name, f := range map[string][]byte{
		"short":          plain(frame.Text, strings.Repeat("a", MinSize-1)),
		"empty":          plain(frame.Binary, ""),
		"noise":          plain(frame.Binary, noise(MinSize)),
		"much noise":     plain(frame.Binary, noise(1<<20)),
		"noise at first": plain(frame.Binary, noise(1<<10)+"aaaaaaaa"),
	} {
		if got := Compress(f); &got[0] != &f[0] || len(got) != len(f) {
			t.Errorf("%s: %d bytes instead of %d", name, len(got), len(f))
		}
	}
	// And the compressor that has given up works again.
	if f := plain(frame.Text, strings.Repeat("a", MinSize)); len(Compress(f)) > 20 {
		t.Error("not compressed")
	}
}

// A compressor takes as much as it is told, and refuses what would be more.
func TestCompressorMost(t *testing.T) {
	c := compressor{most: 10}
	for _, test := range []struct {
		p    string
		want error
	}{{"abcdef", nil}, {"ghijk", errNoGain}, {"ghij", nil}, {"k", errNoGain}, {"", nil}} {
		n, err := c.Write([]byte(test.p))
		if err != test.want || err == nil && n != len(test.p) {
			t.Errorf("%q behind %q: %d, %v", test.p, c.out, n, err)
		}
	}
	if string(c.out) != "abcdefghij" {
		t.Errorf("has %q", c.out)
	}
}

// A compressor keeps memory for what comes out, but no more than keepOut.
func TestCompressorKeeps(t *testing.T) {
	for size, keeps := range map[int]bool{1: true, keepOut: true, keepOut + 1: false} {
		c := compressors.New().(*compressor)
		c.out = make([]byte, size)
		c.release()
		if len(c.out) != 0 || keeps != (cap(c.out) >= size) {
			t.Errorf("of %d bytes %d are kept", size, cap(c.out))
		}
	}
}

// Whoever agreed gets one frame, made once, and the others another one.
func TestFrame(t *testing.T) {
	f := Frame{Plain: plain(frame.Text, strings.Repeat("a", MinSize))}
	if got := f.For(false); &got[0] != &f.Plain[0] || f.packed != nil {
		t.Error("compressed for one who has not agreed")
	}
	first, second := f.For(true), f.For(true)
	if first[0] != frame.Text|frame.Compressed || &first[0] != &second[0] {
		t.Error("not compressed, or twice")
	}
	short := Frame{Plain: plain(frame.Text, "a")}
	if got := short.For(true); &got[0] != &short.Plain[0] {
		t.Error("a short message was compressed")
	}
}

// The examples of RFC 7692 sections 7.2.3.1 to 7.2.3.6, and what else may come.
func TestInflate(t *testing.T) {
	text := strings.Repeat("héllo ", 1000)
	for _, test := range []struct{ name, sent, want string }{
		{"one block", "\xf2\x48\xcd\xc9\xc9\x07\x00", "Hello"},
		{"one block without compression", "\x00\x05\x00\xfa\xffHello\x00", "Hello"},
		{"one block that says it is the last", "\xf3\x48\xcd\xc9\xc9\x07\x00\x00", "Hello"},
		{"two blocks", "\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00", "Hello"},
		{"nothing", "\x00", ""},
		{"no bytes", "", ""},
		{"one last block, and no more", "\xf3\x48\xcd\xc9\xc9\x07\x00", "Hello"},
		{"two last blocks", "\xf3\x48\xcd\xc9\xc9\x07\x00\xf3\x48\xcd\xc9\xc9\x07\x00\x00", "HelloHello"},
		{"an empty last block first", "\x03\x00\xf2\x48\xcd\xc9\xc9\x07\x00", "Hello"},
		{"an empty last block", "\x03\x00", ""},
		{"an empty last block whose end is left out", "\x01", ""},
		{"a message and an empty last block whose end is left out", compress(t, 1, "Hello") + flushed + "\x01", "Hello"},
		{"an empty last block without compression", "\x01\x00\x00\xff\xff\xf2\x48\xcd\xc9\xc9\x07\x00", "Hello"},
		{"fast", compress(t, flate.BestSpeed, text), text},
		{"small", compress(t, flate.BestCompression, text), text},
		{"by Huffman's codes alone", compress(t, flate.HuffmanOnly, text), text},
		{"not at all", compress(t, flate.NoCompression, text), text},
		{"flushed often", compress(t, flate.DefaultCompression, strings.SplitAfter(text, " ")...), text},
	} {
		for _, limit := range []int64{0, int64(len(test.want)), 1 << 40} {
			got, err := Inflate(packed(frame.Text, test.sent), limit)
			if err != nil || !bytes.Equal(got, plain(frame.Text, test.want)) {
				t.Errorf("%s, limit %d: %d bytes, %v", test.name, limit, len(got), err)
			}
		}
	}
}

// What is broken is refused, with the code that the client is to see, and the next
// message is inflated all the same.
func TestInflateRefuses(t *testing.T) {
	text := compress(t, flate.DefaultCompression, strings.Repeat("hello", 1000)+noise(100))
	for _, test := range []struct {
		name, sent string
		limit      int64
		code       uint16
	}{
		{"a byte above the limit", compress(t, 1, strings.Repeat("a", 1001)), 1000, frame.MessageTooBig},
		{"far above the limit", compress(t, 9, strings.Repeat("a", 1<<20)), 1000, frame.MessageTooBig},
		{"above the limit without compression", compress(t, 0, noise(70_000)), 65_536, frame.MessageTooBig},
		{"above the limit, and then broken", compress(t, 1, strings.Repeat("a", 1001)) + "\x06", 1000, frame.MessageTooBig},
		{"not compressed", "Hello", 0, frame.InvalidPayload},
		{"noise", "\x06" + noise(1000), 0, frame.InvalidPayload},
		{"cut", text[:len(text)/2], 0, frame.InvalidPayload},
		{"cut in a block without compression", "\x00\x05\x00\xfa\xffHel", 0, frame.InvalidPayload},
		{"a reserved block", "\x07", 0, frame.InvalidPayload},
		{"a last block that is cut before its end", "\xf3", 0, frame.InvalidPayload},
		{"more behind it", text + "more", 0, frame.InvalidPayload},
		{"more behind a last block", "\xf3\x48\xcd\xc9\xc9\x07\x00" + "\x07", 0, frame.InvalidPayload},
		{"a reference to the message before", "\xf2\x00\x11\x00\x00", 0, frame.InvalidPayload},
		{"a reference to before a last block", "\xf3\x48\xcd\xc9\xc9\x07\x00" + "\xf2\x00\x11\x00\x00", 0, frame.InvalidPayload},
		{"not UTF-8", compress(t, 1, "a\xffb"), 0, frame.InvalidPayload},
		{"UTF-8 that is cut", compress(t, 1, "\xe2\x82"), 0, frame.InvalidPayload},
	} {
		got, err := Inflate(packed(frame.Text, test.sent), test.limit)
		var broken *frame.Error
		if got != nil || !errors.As(err, &broken) || broken.Code != test.code {
			t.Errorf("%s: %d bytes, %v, want %d", test.name, len(got), err, test.code)
		}
		if got, err := Inflate(packed(frame.Text, "\xf2\x48\xcd\xc9\xc9\x07\x00"), 5); err != nil || string(got) != "\x81\x05Hello" {
			t.Fatalf("after %s: %q, %v", test.name, got, err)
		}
	}
	if got, err := Inflate(packed(frame.Binary, compress(t, 1, "a\xffb")), 0); err != nil || string(got) != "\x82\x03a\xffb" {
		t.Errorf("binary: %q, %v", got, err)
	}
}

// Wherever a message is cut, it is refused, or is what the oracle makes of it.
func TestInflateCut(t *testing.T) {
	whole := compress(t, flate.DefaultCompression, strings.Repeat("hello", 100)+noise(300)) + "\x00\x64\x00\x9b\xff" + noise(100)
	for n := range len(whole) {
		got, err := Inflate(packed(frame.Binary, whole[:n]), 0)
		want, ok := oracle([]byte(whole[:n]), 1<<20)
		if ok != (err == nil) || ok && !bytes.Equal(got, plain(frame.Binary, string(want))) || !ok && err != errCorrupt {
			t.Errorf("%d of %d bytes: %d come out, %v, want %d, %v", n, len(whole), len(got), err, len(want), ok)
		}
	}
}

// A bomb takes no more memory than a message of the limit may.
func TestBomb(t *testing.T) {
	const limit = 1 << 20
	bomb := packed(frame.Binary, compress(t, flate.BestCompression, strings.Repeat("a", 64<<20)))
	Inflate(bomb, limit) // so that there is an inflater
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := Inflate(bomb, limit); err != errTooBig {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if took := after.TotalAlloc - before.TotalAlloc; took > 3*limit {
		t.Errorf("%d bytes were allocated for a limit of %d", took, limit)
	}
}

// FuzzCompress compresses what it is given and inflates it again.
func FuzzCompress(f *testing.F) {
	f.Add([]byte("Hello"), uint16(200))
	f.Add([]byte(noise(600)), uint16(1))
	f.Add([]byte(strings.Repeat("ab", 300)), uint16(300))
	f.Fuzz(func(t *testing.T, data []byte, times uint16) {
		if len(data)*int(times) > 1<<20 {
			return
		}
		want := plain(frame.Binary, strings.Repeat(string(data), int(times)))
		got := Compress(want)
		if got[0] == frame.Binary {
			if &got[0] != &want[0] {
				t.Fatal("neither compressed nor the same")
			}
			return
		}
		payload, _ := frame.Payload(want)
		if again, err := Inflate(got, int64(len(payload))); err != nil || !bytes.Equal(again, want) {
			t.Fatalf("%d bytes instead of %d: %v", len(again), len(want), err)
		}
		if _, err := Inflate(got, int64(len(payload))-1); err != errTooBig {
			t.Fatalf("a byte too much: %v", err)
		}
	})
}

// FuzzInflate gives any bytes to Inflate, and compares it with an oracle that reads all of
// them at leisure.
func FuzzInflate(f *testing.F) {
	for _, sent := range []string{
		"", "\x00", "\xf2\x48\xcd\xc9\xc9\x07\x00", "\xf3\x48\xcd\xc9\xc9\x07\x00\x00", "\x03\x00", "\x01\x00\x00\xff\xff", "Hello",
		compress(f, 9, strings.Repeat("a", 5000)), compress(f, 1, noise(300), "abcabcabc"), compress(f, -2, strings.Repeat("hello", 100)),
	} {
		f.Add([]byte(sent), uint16(4000), true)
	}
	f.Fuzz(func(t *testing.T, sent []byte, limit uint16, text bool) {
		kind := byte(frame.Binary)
		if text {
			kind = frame.Text
		}
		most := int64(limit) + 1
		got, err := Inflate(packed(kind, string(sent)), most)
		want, ok := oracle(sent, most)
		switch {
		case int64(len(want)) > most:
			if err != errTooBig {
				t.Fatalf("more than %d bytes: %v", most, err)
			}
		case !ok:
			if err != errCorrupt {
				t.Fatalf("broken: %d bytes, %v", len(got), err)
			}
		case err == errText:
			if frame.Valid(plain(kind, string(want))) {
				t.Fatal("it is UTF-8")
			}
		case err != nil, !bytes.Equal(got, plain(kind, string(want))), !frame.Valid(got):
			t.Fatalf("%q instead of %q: %v", got, want, err)
		}
	})
}

// oracle returns what comes out of a message, or the first bytes above most.
func oracle(sent []byte, most int64) (all []byte, ok bool) {
	if len(sent) == 0 {
		return nil, true
	}
	r := bytes.NewReader(append(bytes.Clone(sent), end...))
	for {
		b, err := io.ReadAll(io.LimitReader(flate.NewReader(r), most+1-int64(len(all))))
		if all = append(all, b...); err != nil || int64(len(all)) > most {
			return all, false
		}
		if left := r.Len(); left <= len(end) {
			return all, left == 0 || left == len(end)-len(flushed) || left == len(end)
		}
	}
}

// What compressing and inflating cost, by the size of a message. bytes/message is what
// goes out.
func BenchmarkCompress(b *testing.B) {
	for _, size := range sizes {
		b.Run(size.name, func(b *testing.B) {
			f := plain(frame.Text, size.text)
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				n = len(Compress(f))
			}
			b.ReportMetric(float64(len(f)), "bytes/plain")
			b.ReportMetric(float64(n), "bytes/message")
		})
	}
}

func BenchmarkInflate(b *testing.B) {
	for _, size := range sizes {
		b.Run(size.name, func(b *testing.B) {
			f := packed(frame.Text, compress(b, flate.DefaultCompression, size.text))
			b.ReportAllocs()
			for b.Loop() {
				Inflate(f, 1<<20)
			}
		})
	}
	b.Run("the slowest 64K", func(b *testing.B) { // that are known
		f := packed(frame.Binary, string(wsraw.SlowToInflate(64<<10)))
		for b.Loop() {
			if got, err := Inflate(f, 64<<10); err != nil || len(got) != 2 {
				b.Fatalf("%d bytes, %v", len(got), err)
			}
		}
	})
}

// sizes are messages as a service sends them.
var sizes = []struct{ name, text string }{
	{"128", document(128)}, {"256", document(256)}, {"512", document(512)}, {"1K", document(1 << 10)},
	{"4K", document(4 << 10)}, {"16K", document(16 << 10)}, {"64K", document(64 << 10)},
}

// document returns n bytes of JSON, with names, numbers and text.
func document(n int) string {
	words := strings.Fields("the price of your order has changed and it will be sent tomorrow by a driver who calls you before he comes to this address")
	r := rand.New(rand.NewPCG(1, 2))
	var b strings.Builder
	for b.Len() < n {
		fmt.Fprintf(&b, `{"id":%d,"user":"u%x","at":"2026-11-%02dT%02d:%02d:00Z","text":"`, r.IntN(1e9), r.Uint32(), 1+r.IntN(30), r.IntN(24), r.IntN(60))
		for range 3 + r.IntN(12) {
			b.WriteString(words[r.IntN(len(words))] + " ")
		}
		fmt.Fprintf(&b, `","total":%d.%02d},`, r.IntN(1000), r.IntN(100))
	}
	return b.String()[:n]
}
