package house_test

import (
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// rooms returns the names in the first column of DESIGN.md's table of rooms.
func rooms(t *testing.T) []string {
	t.Helper()
	_, table, _ := strings.Cut(string(read(t, "DESIGN.md")), "\n## The rooms\n")
	table, _, _ = strings.Cut(table, "\n## ")
	var names []string
	for line := range strings.Lines(table) {
		if cells := strings.Split(line, "|"); len(cells) > 2 && !strings.Contains(line, "---") {
			names = append(names, strings.Fields(cells[1])...)
		}
	}
	if len(names) == 0 || names[0] != "room" {
		t.Fatal("DESIGN.md has no table of rooms")
	}
	return names[1:]
}

// DESIGN.md's table names each product file of the root and each directory with Go
// files, and nothing else.
func TestRooms(t *testing.T) {
	names := rooms(t)
	empty := make(map[string]bool)
	for _, name := range names {
		if empty[name] {
			t.Errorf("%s is named twice", name)
		}
		empty[name] = true
	}
	want := make(map[string]bool) // files of the root, directories with a slash
	for _, file := range files(t, "") {
		if path.Dir(file) != "." {
			if strings.HasSuffix(file, ".go") {
				want[path.Dir(file)+"/"] = true
			}
		} else if strings.HasSuffix(file, ".go") && !strings.HasSuffix(file, "_test.go") {
			want[file] = true
		}
	}
	for _, w := range slices.Sorted(maps.Keys(want)) {
		name, ok := under(names, w)
		if !ok {
			t.Errorf("DESIGN.md does not say what is in %s", w)
		}
		delete(empty, name)
	}
	for _, name := range slices.Sorted(maps.Keys(empty)) {
		t.Errorf("DESIGN.md names %s, which has no Go file of its own", name)
	}
}

var link = regexp.MustCompile(`\]\(([^)\s]+)\)`)

// The links in the documents lead to files and headings that exist.
func TestLinks(t *testing.T) {
	for _, file := range files(t, ".md") {
		for _, m := range link.FindAllStringSubmatch(string(read(t, file)), -1) {
			target, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(target, "://") {
				continue
			}
			to := file
			if target != "" {
				to = path.Join(path.Dir(file), target)
			}
			if _, err := fs.Stat(house, to); err != nil {
				t.Errorf("%s links to %s: %v", file, m[1], err)
			} else if anchor != "" && !slices.Contains(anchors(string(read(t, to))), anchor) {
				t.Errorf("%s links to %s, which has no such heading", file, m[1])
			}
		}
	}
}

// anchors returns the anchors of a document's headings.
func anchors(document string) []string {
	var found []string
	for line := range strings.Lines(document) {
		if strings.HasPrefix(line, "#") {
			title := strings.ToLower(strings.TrimSpace(strings.TrimLeft(line, "#")))
			title = regexp.MustCompile(`[^\pL\pN _-]`).ReplaceAllString(title, "")
			found = append(found, strings.ReplaceAll(title, " ", "-"))
		}
	}
	return found
}
