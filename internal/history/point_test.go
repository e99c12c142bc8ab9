package history_test

import (
	"slices"
	"testing"

	"github.com/heraldgo/herald/internal/history"
)

// A Trail knows the last point in each of the four epochs that were left last.
func TestTrail(t *testing.T) {
	var trail history.Trail
	passed := func(epoch history.Epoch, offset history.Offset, want bool) {
		t.Helper()
		if got := trail.Passed(history.Point{Epoch: epoch, Offset: offset}); got != want {
			t.Errorf("passed %d in epoch %d: %v", offset, epoch, got)
		}
	}
	passed(1, 1, false)
	trail.Leave(history.Point{Epoch: 1, Offset: 10})
	trail.Leave(history.Point{Epoch: 1, Offset: 3}) // a master that was replaced
	passed(1, 9, true)
	passed(1, 10, true)
	passed(1, 11, false)
	for epoch := history.Epoch(2); epoch <= 4; epoch++ {
		trail.Leave(history.Point{Epoch: epoch, Offset: 5})
	}
	for epoch := history.Epoch(1); epoch <= 4; epoch++ {
		passed(epoch, 5, true)
		passed(epoch, 11, false)
	}
	passed(1, 10, true)
	trail.Leave(history.Point{Epoch: 2, Offset: 7})
	passed(2, 7, true)
	trail.Leave(history.Point{Epoch: 5, Offset: 5})
	passed(1, 1, false)
	passed(2, 7, true)
	passed(3, 5, true)
	passed(5, 6, false)
}

// A Backlog is read in pages. It knows how far everything was read, and whether an
// entry was gone.
func TestBacklog(t *testing.T) {
	b := history.Backlog{Survey: history.Survey{End: history.Point{Epoch: 1, Offset: 100}, Offsets: []history.Offset{10, 20, 30}}}
	for _, step := range []struct {
		page    []history.Offset
		entries int
		through history.Offset
		whole   bool
	}{
		{page: []history.Offset{10, 20}, entries: 2, through: 29, whole: true},
		{page: []history.Offset{30}, entries: 0, through: 100, whole: false},
		{through: 100, whole: true},
	} {
		if page := b.Page(2); !slices.Equal(page, step.page) {
			t.Fatalf("the page is %v, want %v", page, step.page)
		}
		if through, whole := b.Took(make([]history.Entry, step.entries)); through != step.through || whole != step.whole {
			t.Errorf("of %v there are %d: through %d, whole %v", step.page, step.entries, through, whole)
		}
	}
}
