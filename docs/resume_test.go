package docs_test

import (
	"os"
	"strings"
	"testing"
)

// The programs of resume.md are those of examples/room, so they build and run.
func TestResume(t *testing.T) {
	read := func(file string) string {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	page := read("resume.md")
	block := func(language string) string {
		_, code, found := strings.Cut(page, "```"+language+"\n")
		if code, page, _ = strings.Cut(code, "```"); !found || code == "" {
			t.Fatalf("the page has no more of %s", language)
		}
		return code
	}
	for _, file := range []struct{ language, name string }{{"go", "room.go"}, {"go", "main.go"}, {"html", "page.html"}} {
		if block(file.language) != read("../examples/room/"+file.name) {
			t.Errorf("the page shows another %s than examples/room has", file.name)
		}
	}
	for _, name := range []string{"room.go", "page.html"} {
		if read("../examples/start/"+name) != read("../examples/room/"+name) {
			t.Errorf("examples/start has another %s than the page", name)
		}
	}
	if !strings.Contains(read("../examples/room/main_test.go"), "\n"+block("go")) {
		t.Error("the page's client in Go is not that of examples/room")
	}
}
