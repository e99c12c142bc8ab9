package overlay

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// brokenEnv makes Broken run the tests, which takes minutes: make long sets it.
const brokenEnv = "HERALD_BROKEN_PROMISES"

// A Rule is something that some tests must notice if it is gone.
type Rule struct {
	Name  string
	Edits []Edit // they take the rule away

	// The tests that must notice: a package, named from the root of the repository,
	// and the pattern for go test -run.

	Package, Run string
}

// Broken takes away each rule, runs its tests, and fails if their output does not
// match failed. That takes minutes, so it is done only if HERALD_BROKEN_PROMISES is
// set. Each run checks that the edits still apply.
func Broken(t *testing.T, root string, failed *regexp.Regexp, rules []Rule) {
	for _, r := range rules {
		Make(t, root, r.Edits)
	}
	if os.Getenv(brokenEnv) == "" {
		t.Skip("NOT RUN: it takes minutes; make long, or set " + brokenEnv)
	}
	for _, r := range rules {
		t.Run(r.Name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), "go", "test", "-count=1", "-vet=off", "-timeout", "2m",
				"-overlay", Make(t, root, r.Edits), "-run", r.Run, "./"+r.Package)
			cmd.Dir = root
			out, err := cmd.CombinedOutput()
			if err == nil || !failed.Match(out) {
				t.Fatalf("%v\n%s", err, out)
			}
			for line := range strings.Lines(string(out)) {
				if strings.Contains(line, ".go:") {
					t.Log(strings.TrimSpace(line))
					break
				}
			}
		})
	}
}
