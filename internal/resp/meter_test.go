package resp_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/heraldgo/herald/internal/resp"
)

// metered feeds a Meter with pieces of n bytes.
func metered(m *resp.Meter, in string, n int) error {
	for len(in) > 0 {
		n := min(n, len(in))
		if err := m.Read([]byte(in[:n])); err != nil {
			return err
		}
		in = in[n:]
	}
	return nil
}

var replies = []string{
	"+OK\r\n", "-ERR no\r\n", ":12\r\n", "$4\r\na\r\nb\r\n", "$0\r\n\r\n", "$-1\r\n", "*-1\r\n", "_\r\n", "#t\r\n", ",1.5\r\n", "(123\r\n",
	"!6\r\nERR no\r\n", "=7\r\ntxt:abc\r\n", "*0\r\n", "%0\r\n", "~1\r\n+a\r\n", ">2\r\n+a\r\n$1\r\nb\r\n",
	"%1\r\n$1\r\nk\r\n*2\r\n:1\r\n*1\r\n_\r\n", "|1\r\n+k\r\n+v\r\n*1\r\n|0\r\n:1\r\n",
	"+" + strings.Repeat("x", 64<<10-3) + "\r\n", strings.Repeat("*0\r\n", 100),
	strings.Repeat("*1\r\n$1\r\na\r\n", 17), strings.Repeat("*1\r\n", 16) + ":1\r\n",
}

// However the bytes come, replies that are one are followed to their end, and
// others refused.
func TestMeter(t *testing.T) {
	tooMany := strings.Repeat(":1\r\n", 1<<21+1)
	for _, n := range []int{1, 2, 3, 7, 1 << 20} {
		var m resp.Meter
		for _, in := range replies {
			m.Asked()
			if err := metered(&m, in, n); err != nil {
				t.Errorf("%.40q in pieces of %d: %v", in, n, err)
			}
		}
		// It knows that all have ended: 16 levels fit again.
		m.Asked()
		if err := metered(&m, replies[len(replies)-1], n); err != nil {
			t.Errorf("behind all, in pieces of %d: %v", n, err)
		}
		for _, in := range []string{
			"?\r\n", "\n", "\r\n", "$?\r\n", "*?\r\n", "$\r\n", "$5\n", "$-2\r\n", "*-2\r\n", "$+5\r\n", "$1x\r\n", "*9223372036854775807\r\n",
			"$999999999999999999\r\n", "$67108865\r\n", "*2097153\r\n", "%1048577\r\n", strings.Repeat("*1\r\n", 17), strings.Repeat("|0\r\n", 17),
			"*2\r\n*1048576\r\n*1048576\r\n", "+" + strings.Repeat("x", 64<<10-2) + "\r\n", "$" + strings.Repeat("0", 64<<10) + "5\r\n",
			tooMany,
		} {
			if n < 7 && len(in) > 1<<20 {
				continue // it would take seconds
			}
			var m resp.Meter
			m.Asked()
			if err := metered(&m, in, n); !errors.Is(err, resp.ErrProtocol) {
				t.Errorf("%.40q in pieces of %d: %v", in, n, err)
			}
		}
	}
}

// What is just not too large is taken: a string of as many bytes as one may
// have, and as many strings and elements as all may have.
func TestMeterBounds(t *testing.T) {
	ask := func() *resp.Meter {
		var m resp.Meter
		m.Asked()
		return &m
	}
	for name, in := range map[string]string{"string": "$67108864\r\n", "array": "*2097151\r\n", "map": "%1048575\r\n"} {
		if err := ask().Read([]byte(in)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Eight strings of 64 MiB are all that there may be, and announced at once:
	// nobody looks at their bytes.
	m, body := ask(), make([]byte, 64<<20+2)
	for range 8 {
		if err := m.Read([]byte("$67108864\r\n")); err != nil {
			t.Fatal(err)
		}
		m.Read(body)
	}
	if err := m.Read([]byte("$0\r\n\r\n")); err != nil {
		t.Errorf("a string of no bytes: %v", err)
	}
	if err := m.Read([]byte("$1\r\n")); !errors.Is(err, resp.ErrProtocol) {
		t.Errorf("a byte too many: %v", err)
	}
}

// What a reply may have begins anew with each question.
func TestMeterAsked(t *testing.T) {
	var m resp.Meter
	large := "*2000000\r\n" + strings.Repeat("_\r\n", 2_000_000)
	for range 3 {
		m.Asked()
		if err := metered(&m, large, 4096); err != nil {
			t.Fatal(err)
		}
	}
	if err := metered(&m, large, 4096); !errors.Is(err, resp.ErrProtocol) {
		t.Errorf("unasked: %v", err)
	}
}

// What the Reader takes for a whole reply the Meter follows to its end, and it
// makes no difference in what pieces it comes.
func FuzzMeter(f *testing.F) {
	for _, in := range replies {
		f.Add([]byte(in), uint8(3))
	}
	f.Fuzz(func(t *testing.T, in []byte, n uint8) {
		var whole, parts resp.Meter
		whole.Asked()
		parts.Asked()
		err := whole.Read(in)
		if inParts := metered(&parts, string(in), int(n)+1); (err == nil) != (inParts == nil) {
			t.Fatalf("whole: %v, in pieces of %d: %v", err, int(n)+1, inParts)
		}
		from := strings.NewReader(string(in))
		r := resp.NewReader(from, 1<<17)
		var m resp.Meter
		for begin := 0; ; {
			h, broken := r.Header()
			if broken == nil {
				_, broken = r.Rest(h)
			}
			if broken != nil {
				return
			}
			end := len(in) - from.Len() - r.Buffered()
			m.Asked()
			if err := m.Read(in[begin:end]); err != nil {
				t.Fatalf("%.200q is a reply, and refused: %v", in[begin:end], err)
			}
			begin = end
		}
	})
}

func BenchmarkMeter(b *testing.B) {
	reply := []byte("*4\r\n$16\r\n1700000000000000\r\n$1\r\n0\r\n*2\r\n$20\r\nnode-abcdefghijkl.12\r\n$100\r\n" + strings.Repeat("v", 100) + "\r\n:1\r\n")
	var m resp.Meter
	b.ReportAllocs()
	b.SetBytes(int64(len(reply)))
	for b.Loop() {
		m.Asked()
		m.Read(reply)
	}
}
