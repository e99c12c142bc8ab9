// Package overlay builds the code with edits, for tests that check whether other
// tests notice that a rule is gone.
package overlay

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// An Edit is a file, named from the root of the repository, a text that occurs in
// it once, and the text that replaces it.
type Edit [3]string

// Make returns a file for the flag -overlay of go build, with edited files in place
// of the real ones. root is the root of the repository.
func Make(t testing.TB, root string, edits []Edit) string {
	t.Helper()
	root, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	texts := make(map[string]string)
	for _, e := range edits {
		name, from, to := e[0], e[1], e[2]
		file := filepath.Join(root, name)
		text, ok := texts[file]
		if !ok {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			text = string(b)
		}
		if n := strings.Count(text, from); n != 1 {
			t.Fatalf("%s has %d times, not once: %q", name, n, from)
		}
		texts[file] = strings.Replace(text, from, to, 1)
	}
	dir := t.TempDir()
	replace := make(map[string]string)
	for file, text := range texts {
		replace[file] = filepath.Join(dir, fmt.Sprint(len(replace), filepath.Ext(file)))
		if err := os.WriteFile(replace[file], []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}
