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

// A Rule is what some tests have to notice if it is gone.
type Rule struct {
	Name  string
	Edits []Edit // take it away

	// The tests: a package, from the root of the repository, and what go test runs of it.

	Package, Run string
}

// Broken takes away each rule, runs its tests, and fails if what they print does not
// match failed. That takes minutes, so it is done only if HERALD_BROKEN_PROMISES is
// set. Whether the edits still apply is checked in each run.
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
