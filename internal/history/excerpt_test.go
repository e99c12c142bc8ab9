package history_test

import (
	"slices"
	"testing"

	"github.com/heraldgo/herald/internal/history"
)

type offsets = []history.Offset

// read returns an Excerpt that looked for the offsets looked and found entries at
// found.
func read(looked, found offsets) history.Excerpt {
	x := history.Excerpt{Offsets: looked}
	for _, at := range found {
		x.Entries = append(x.Entries, history.Entry{Offset: at})
	}
	return x
}

func found(entries []history.Entry) (at offsets) {
	for _, e := range entries {
		at = append(at, e.Offset)
	}
	return at
}

// Of an Excerpt that was read for several askers, each gets the entries that it
// wants, up to the first offset that was not looked for.
func TestExcerptFor(t *testing.T) {
	x := read(offsets{2, 3, 5, 7, 8, 9}, offsets{2, 5, 7, 9})
	for _, c := range []struct{ want, looked, found offsets }{
		{offsets{2, 3, 5, 7, 8, 9}, offsets{2, 3, 5, 7, 8, 9}, offsets{2, 5, 7, 9}},
		{offsets{3, 5, 9, 12}, offsets{3, 5, 9}, offsets{5, 9}},
		{offsets{3, 6, 7}, offsets{3}, nil},
		{offsets{1, 2}, nil, nil},
		{nil, nil, nil},
	} {
		own := x.For(c.want)
		if !slices.Equal(own.Offsets, c.looked) || !slices.Equal(found(own.Entries), c.found) {
			t.Errorf("for %v: %+v", c.want, own)
		}
	}
}

// A page is taken from the beginning of an Excerpt. An entry that was looked for
// and not found is missing, and is not read later.
func TestExcerptPage(t *testing.T) {
	x := read(offsets{2, 3, 5, 7}, offsets{3, 5})
	for _, c := range []struct {
		page, found, later offsets
		rest               offsets
		ok                 bool
	}{
		{offsets{2, 3}, offsets{3}, offsets{5}, offsets{5, 7}, true},
		{offsets{2}, nil, offsets{3, 5}, offsets{3, 5, 7}, true},
		{offsets{2, 3, 5, 7}, offsets{3, 5}, nil, nil, true},
		{offsets{2, 3, 5, 7, 8}, nil, nil, nil, false},
		{offsets{3, 5}, nil, nil, nil, false},
		{nil, nil, nil, nil, false},
	} {
		entries, rest, ok := x.Page(c.page)
		if ok != c.ok || !slices.Equal(found(entries), c.found) || !slices.Equal(rest.Offsets, c.rest) || !slices.Equal(found(rest.Entries), c.later) {
			t.Errorf("page %v: %v, %+v, %v", c.page, entries, rest, ok)
		}
	}
}
