package resp_test

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"

	"github.com/heraldgo/herald/internal/resp"
)

// A reply that is read whole has a budget, however it is nested.
func TestReplyBudget(t *testing.T) {
	row := "*1000\r\n" + strings.Repeat(":1\r\n", 1000)
	for name, in := range map[string]string{
		"elements": ">1000\r\n" + strings.Repeat(row, 1000),
		"bytes":    "*100\r\n" + strings.Repeat("$100000\r\n"+strings.Repeat("x", 100_000)+"\r\n", 100),
	} {
		if _, err := read(resp.NewReader(strings.NewReader(in), 64)); !errors.Is(err, resp.ErrProtocol) {
			t.Errorf("too many %s: %v", name, err)
		}
	}
}

// What is just within the budget is read.
func TestReplyBounds(t *testing.T) {
	nested := func(n int) string { return strings.Repeat("*1\r\n", n) + ":1\r\n" }
	elems := func(n int) string { return fmt.Sprintf("*%d\r\n", n) + strings.Repeat(":1\r\n", n) }
	bytes := func(n int) string { return string(resp.AppendWord(nil, strings.Repeat("x", n))) }
	for name, test := range map[string]struct {
		make func(n int) string
		most int
	}{"depth": {nested, 8}, "elements": {elems, 1 << 12}, "bytes": {bytes, 1 << 20}} {
		if _, err := read(resp.NewReader(strings.NewReader(test.make(test.most)), 64)); err != nil {
			t.Errorf("%s of %d: %v", name, test.most, err)
		}
		if _, err := read(resp.NewReader(strings.NewReader(test.make(test.most+1)), 64)); !errors.Is(err, resp.ErrProtocol) {
			t.Errorf("%s of %d: %v", name, test.most+1, err)
		}
	}
}

// Memory is had for what comes, not for what is announced.
func TestBulkAnnounced(t *testing.T) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := resp.NewReader(strings.NewReader("$536870912\r\nabc"), 64).Bulk()
	runtime.ReadMemStats(&after)
	if err != io.ErrUnexpectedEOF {
		t.Errorf("got %v", err)
	}
	if n := after.TotalAlloc - before.TotalAlloc; n > 8<<20 {
		t.Errorf("%d MB were allocated for 3 bytes", n>>20)
	}
	for _, n := range []int{1 << 20, 1<<20 + 1, 5_000_000} {
		want := strings.Repeat("x", n-1) + "y"
		got, err := resp.NewReader(strings.NewReader(string(resp.AppendWord(nil, want))), 64).Bulk()
		if err != nil || string(got) != want {
			t.Errorf("bulk of %d bytes: got %d, %v", n, len(got), err)
		}
	}
}
