package history

// A Survey is a log's answer to a reader who wants to go on from a Point: what was
// kept for its topics since, up to the end of the log.
type Survey struct {
	End  Point // of the log
	Fork Fork  // from the epoch of that point, if the log is in another one

	// From is where the answer begins. Whole says that nothing is missing between the
	// point and End: the epochs are the same, and the chain of each topic reaches
	// back to the point.
	From  Offset
	Whole bool

	// Offsets are those of the entries, rising. Each entry was there during the
	// survey, or the node has a copy of it. If the entries are few or copied, Entries
	// may have all of them, and otherwise has none. Others may share the memory of an
	// entry, so nobody changes it.
	Offsets []Offset
	Entries []Entry
}

// A Backlog is what is still to be read of a Survey. It is read in pages, by
// offset and never topic by topic.
type Backlog struct {
	Survey
	page int // how many of Offsets are being read
}

// Page returns the offsets to be read next, at most n of them. There are none
// once all has been read.
func (b *Backlog) Page(n int) []Offset {
	b.page = min(n, len(b.Offsets))
	return b.Offsets[:b.page:b.page]
}

// Took takes the entries that were read for the last Page. It returns up to where
// everything has been read now, and whether none was missing: the log may have lost a
// segment since the survey.
func (b *Backlog) Took(entries []Entry) (through Offset, whole bool) {
	whole = len(entries) == b.page
	if b.Offsets = b.Offsets[b.page:]; len(b.Offsets) > 0 {
		return b.Offsets[0] - 1, whole
	}
	return b.End.Offset, whole
}
