package herald_test

import (
	"os"
	"strings"
	"testing"
)

// The README's program is examples/hello, so it builds and runs, and is short.
func TestReadmeProgram(t *testing.T) {
	read := func(file string) string {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	_, code, _ := strings.Cut(read("README.md"), "```go\n")
	code, _, _ = strings.Cut(code, "```")
	if code != read("examples/hello/main.go") {
		t.Error("the first program of README.md is not examples/hello/main.go")
	}
	if n := strings.Count(code, "\n"); n > 35 {
		t.Errorf("the program has %d lines, more than 35", n)
	}
}
