package history_test

import (
	"strings"
	"testing"

	"github.com/heraldgo/herald/internal/history"
)

// Positions are parsed as they were written.
func TestPositions(t *testing.T) {
	full := history.Positions{}
	for i := range full {
		full[i] = history.Point{Epoch: ^history.Epoch(0) - history.Epoch(i), Offset: ^history.Offset(0) - history.Offset(i)}
	}
	for text, want := range map[string]history.Positions{
		"":                      {},
		"0.1.0":                 {{Epoch: 1}},
		"0.ab.7,3.9f.123":       {0: {Epoch: 0xab, Offset: 7}, 3: {Epoch: 0x9f, Offset: 123}},
		"15.ffffffffffffffff.9": {15: {Epoch: ^history.Epoch(0), Offset: 9}},
	} {
		var got history.Positions
		if err := got.UnmarshalText([]byte(text)); err != nil || got != want {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	text, err := full.AppendText(nil)
	if err != nil {
		t.Fatal(err)
	}
	var got history.Positions
	if err := got.UnmarshalText(text); err != nil || got != full {
		t.Errorf("all partitions: %v, %v", got, err)
	}
}

// A client's positions are refused unless a node may have written them.
func TestHostilePositions(t *testing.T) {
	for _, text := range []string{
		",", ".", "..", "0", "0.1", "0.1.", "0..1", ".1.1", "0.1.1.1", "0.0.1", "0.01.1", "0.1.01", "00.1.1",
		"16.1.1", "256.1.1", "-1.1.1", "0.-1.1", "0.1.-1", "0.+1.1", "0.A.1", "0.0x1.1", "0.1_0.1", "0.1.1_0", " 0.1.1",
		"0.1.1 ", "0.1.1,", ",0.1.1", "0.1.1,0.1.1", "1.1.1,0.1.1", "0.10000000000000000.1", "0.1.18446744073709551616",
		"0.1.1\x00", "0.1.1\n", strings.Repeat("0", 1<<20), strings.Repeat("0.1.1,", 1<<10),
	} {
		var p history.Positions
		if err := p.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%.40q was taken", text)
		}
	}
}

func FuzzPositions(f *testing.F) {
	f.Add("0.ab.7,3.9f.123")
	f.Add("15.ffffffffffffffff.18446744073709551615")
	f.Fuzz(func(t *testing.T, text string) {
		var p history.Positions
		if p.UnmarshalText([]byte(text)) != nil {
			return
		}
		if again, err := p.AppendText(nil); err != nil || string(again) != text {
			t.Errorf("%q comes back as %q, %v", text, again, err)
		}
	})
}

// Parsing positions does not allocate, because clients send them all the time.
func TestPositionsAllocate(t *testing.T) {
	var p history.Positions
	text := []byte("0.ffffffffffffffff.18446744073709551615,15.ffffffffffffffff.18446744073709551615")
	if n := testing.AllocsPerRun(100, func() { p.UnmarshalText(text) }); n != 0 || p[15].Epoch == 0 {
		t.Errorf("it allocates %v times", n)
	}
}
