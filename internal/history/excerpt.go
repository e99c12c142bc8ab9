package history

import "slices"

// An Excerpt is what was read of a log in one epoch: the offsets that were looked at,
// and the entries that were there. Both rise.
type Excerpt struct {
	Offsets []Offset
	Entries []Entry
}

// For returns the part of an Excerpt that is for a reader who wants these offsets,
// which rise. It ends before the first one that was not looked at.
func (x Excerpt) For(offsets []Offset) Excerpt {
	n, looked := 0, x.Offsets
	for n < len(offsets) {
		i, ok := slices.BinarySearch(looked, offsets[n])
		if !ok {
			break
		}
		looked = looked[i+1:]
		n++
	}
	own := Excerpt{Offsets: offsets[:n]}
	for _, e := range x.Entries {
		if _, ok := slices.BinarySearch(own.Offsets, e.Offset); ok {
			own.Entries = append(own.Entries, e)
		}
	}
	return own
}

// Page returns the entries at the offsets of a page, and the rest of the Excerpt
// behind them. ok is false if the Excerpt does not begin with that page.
func (x Excerpt) Page(page []Offset) (entries []Entry, rest Excerpt, ok bool) {
	n := len(page)
	if n == 0 || len(x.Offsets) < n || !slices.Equal(x.Offsets[:n], page) {
		return nil, Excerpt{}, false
	}
	i := 0
	for i < len(x.Entries) && x.Entries[i].Offset <= page[n-1] {
		i++
	}
	return x.Entries[:i:i], Excerpt{x.Offsets[n:], x.Entries[i:]}, true
}
