package errs_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/heraldgo/herald/internal/batch"
	"github.com/heraldgo/herald/internal/errs"
)

var errCut = errors.New("cut")

// A call that was given up is unknown if it may have been sent, and names why
// it was not, if anybody knows.
func TestOfPublish(t *testing.T) {
	ended, end := context.WithCancel(t.Context())
	end()
	well, cut := func() error { return nil }, func() error { return errCut }
	taken := fmt.Errorf("%w: %w", batch.ErrTaken, context.Canceled)
	for _, test := range []struct {
		name   string
		ctx    context.Context
		err    error
		health func() error
		want   string
	}{
		{"sent", ended, nil, cut, "<nil>"},
		{"taken", ended, taken, cut, "herald: outcome is unknown: taken, outcome unknown: context canceled"},
		{"given up, the link is well", ended, context.Canceled, well, "context canceled"},
		{"given up, the link is down", ended, context.Canceled, cut, "herald: bus is down: context canceled: cut"},
		{"refused", t.Context(), errCut, cut, "cut"},
		{"refused while ctx ended", ended, errCut, cut, "cut"},
	} {
		if got := fmt.Sprint(errs.OfPublish(test.ctx, test.err, test.health)); got != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
	}
}

func TestInPart(t *testing.T) {
	if err := errs.InPart(errCut); !errors.Is(err, errs.Unknown) || !errors.Is(err, errCut) {
		t.Errorf("got %v", err)
	}
	unknown := fmt.Errorf("%w: %w", errs.Unknown, errCut)
	if err := errs.InPart(unknown); err != unknown {
		t.Errorf("got %v, want the same", err)
	}
}

// If the outcome of one partition is unknown, so is that of the call, whichever failed
// first.
func TestJoin(t *testing.T) {
	unknown := fmt.Errorf("%w: no reply", errs.Unknown)
	for _, all := range [][]error{{errCut, unknown}, {unknown, nil, errCut}} {
		if err := errs.Join(all); !errors.Is(err, errs.Unknown) || !errors.Is(err, errCut) {
			t.Errorf("Join of %v: %v, want both", all, err)
		}
	}
	if err := errs.Join([]error{errCut, nil, errCut}); err == nil || err.Error() != "cut" {
		t.Errorf("Join of the same error twice: %v, want it once", err)
	}
	if err := errs.Join([]error{nil, nil}); err != nil {
		t.Errorf("Join of nothing: %v", err)
	}
}
