package house_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

// An outline is what translations of a README must have in common.
type outline struct {
	headings []string // their levels
	code     []string // lines of blocks, without comments
	links    []string // sorted
	figures  []string // the figures in tables; for the other cells of a row, only that they exist
}

var (
	comment = regexp.MustCompile(`\s*(//|    #) .*$`)
	figure  = regexp.MustCompile(`^[0-9][0-9.,]*( s)?( \([0-9.]+\))?$`)
)

func outlineOf(document string) (o outline) {
	fenced := false
	for line := range strings.Lines(document) {
		line = strings.TrimRight(line, "\n")
		switch {
		case strings.HasPrefix(line, "```"):
			fenced = !fenced
			fallthrough
		case fenced, strings.HasPrefix(line, "    "):
			o.code = append(o.code, comment.ReplaceAllString(line, ""))
		case strings.HasPrefix(line, "#"):
			o.headings = append(o.headings, line[:strings.Index(line, " ")])
		case strings.HasPrefix(line, "|"):
			for cell := range strings.SplitSeq(line, "|") {
				if cell = strings.TrimSpace(cell); cell != "" && !figure.MatchString(cell) && strings.Trim(cell, "-:") != "" {
					cell = "text"
				}
				o.figures = append(o.figures, cell)
			}
		}
	}
	for _, m := range link.FindAllStringSubmatch(document, -1) {
		if !strings.HasPrefix(m[1], "README") {
			o.links = append(o.links, m[1])
		}
	}
	slices.Sort(o.links)
	return o
}

// README.zh-CN.md has the same headings, code, links and figures as README.md.
// Comments in the code are translated.
func TestTranslation(t *testing.T) {
	english, chinese := outlineOf(string(read(t, "README.md"))), outlineOf(string(read(t, "README.zh-CN.md")))
	for what, pair := range map[string][2][]string{
		"headings": {english.headings, chinese.headings},
		"code":     {english.code, chinese.code},
		"links":    {english.links, chinese.links},
		"tables":   {english.figures, chinese.figures},
	} {
		for i := range max(len(pair[0]), len(pair[1])) {
			at := func(all []string) string { return strings.Join(all[min(i, len(all)):min(i+1, len(all))], "") }
			if one, other := at(pair[0]), at(pair[1]); one != other {
				t.Errorf("%s: README.md has %q, and README.zh-CN.md has %q", what, one, other)
				break
			}
		}
		if len(pair[0]) == 0 {
			t.Errorf("README.md has no %s", what)
		}
	}
}
