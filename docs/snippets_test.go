package docs_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// elsewhere are the pages whose snippets need a module of their own.
var elsewhere = []string{"buses.md"}

var snippet = regexp.MustCompile("(?ms)^```([a-z]+)\n(.*?)^```$")

// Each snippet of a page is part of a file that is built and run: one of the examples,
// or a test of docs. Indentation does not count.
func TestSnippets(t *testing.T) {
	var sources []string
	for _, root := range []string{".", "../examples", "../client", "../observe", "../heraldapi"} {
		err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() && slices.Contains([]string{".go", ".js", ".html", ".conf", ".cfg", ".yaml", ".yml"}, filepath.Ext(name)) {
				b, err := os.ReadFile(name)
				sources = append(sources, flat(string(b)))
				return err
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	pages, err := filepath.Glob("*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range pages {
		if slices.Contains(elsewhere, page) {
			continue
		}
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, block := range snippet.FindAllStringSubmatch(string(text), -1) {
			if slices.Contains([]string{"sh", "json"}, block[1]) {
				continue
			}
			code := flat(block[2])
			if !slices.ContainsFunc(sources, func(s string) bool { return strings.Contains(s, code) }) {
				t.Errorf("%s has a snippet that nothing runs:\n%s", page, block[2])
			}
		}
	}
}

// flat returns text without indentation, between two ends of lines.
func flat(text string) string {
	var b strings.Builder
	b.WriteByte('\n')
	for line := range strings.Lines(text) {
		b.WriteString(strings.TrimSpace(line))
		b.WriteByte('\n')
	}
	return b.String()
}
