// Mutation changes one operator after the other in the rooms below, and runs
// their tests on each mutant. Tests that pass all the same do not look at what
// was changed.
//
// usage: mutation [room...]
//
// It fails if a room's tests kill less than 90% of its mutants, if one survives that
// the file mutants does not explain, or if that file explains one that does not
// survive. A mutant whose tests do not end in time counts as one that survives, for the
// machine may just have been slow: it is not killed, and has to be explained.
//
// All mutants of a room are compiled into one program, which an environment
// variable makes one of them: see mutate.go. Only those of constants are compiled
// alone. What is changed is as in gremlins, a tool that compiles each alone.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

const (
	least     = 90          // percent of a room's mutants that its tests must kill
	patience  = 10          // times that the tests take, until a mutant has timed out
	leastWait = time.Minute // and at least so long: tests await what comes for half of it
	explained = ".ci/mutants"
)

// A room is a package whose tests are fast and need no server; or a file of one,
// and those of its tests that are so.
type room struct {
	dir  string
	file string // none is all
	run  string // of the tests; none is all
}

var rooms = []room{
	{dir: "internal/backoff"},
	{dir: "internal/batch"},
	{dir: "internal/callbacks"},
	{dir: "internal/clock"},
	{dir: "internal/conflate"},
	{dir: "internal/deadline"},
	{dir: "internal/deflate"},
	{dir: "internal/errs"},
	{dir: "internal/follow"},
	{dir: "internal/histogram"},
	{dir: "internal/history"},
	{dir: "internal/history/device"},
	{dir: "internal/history/locallog"},
	{dir: "internal/history/node"},
	{dir: "internal/history/packet"},
	{dir: "internal/history/protocol"},
	{dir: "internal/history/store"},
	{dir: "internal/inbox"},
	{dir: "internal/lag"},
	{dir: "internal/loan"},
	{dir: "internal/loglimit"},
	{dir: "internal/netstring"},
	{dir: "internal/origin"},
	{dir: "internal/pieces"},
	{dir: "internal/places"},
	{dir: "internal/rate"},
	{dir: "internal/receipts"},
	{dir: "internal/resp"},
	{dir: "internal/ring"},
	{dir: "internal/turn"},
	{dir: "internal/uplink"},
	{dir: "internal/wake"},
	{dir: "internal/watching"},
	{dir: "internal/wire"},
	{dir: "internal/frame"},
	{file: "envelope.go", run: "^(TestExtensions|TestEnvelope|TestQuestions|TestTraceTravels|TestOutgoingRelease|TestPack|TestCallsOverTheBounds|TestSendTimeout$)"},
	{file: "queue.go", run: "^(TestQueue($|[A-Z])|TestVolatileNeverCloses|TestTooSlowCountsOnce|TestPingBeforeFences|TestConflate$)"},
	{file: "gaps.go", run: "^(TestMalformedMakesGap|TestHeartbeatIsNoGap|TestSilenceInEveryOrder|TestGaps)"},
	{file: "heartbeat.go", run: "^(TestHealth|TestHeartbeat|TestProbeInterval)"},
}

// A tally counts the mutants of a room by what became of them.
type tally struct {
	killed, timedOut, survived int
	explained                  int // of the latter two
	needless                   int // reasons without a mutant that survives
}

func (t tally) mutants() int { return t.killed + t.timedOut + t.survived }

func main() {
	log.SetFlags(0)
	log.SetPrefix("mutation: ")
	work, err := os.MkdirTemp("", "mutation")
	if err != nil {
		log.Fatal(err)
	}
	ok, err := all(work, os.Args[1:])
	os.RemoveAll(work)
	if err != nil {
		log.Fatal(err)
	}
	if !ok {
		os.Exit(1)
	}
}

// all tries the rooms that are named, or all of them.
func all(work string, names []string) (ok bool, err error) {
	reasons, err := readReasons()
	if err != nil {
		return false, err
	}
	const row = "%-26s %8v %8v %9v %9v %9v %8v\n"
	table := fmt.Sprintf(row, "room", "mutants", "killed", "timed out", "survived", "explained", "percent")
	ok = true
	for _, r := range rooms {
		if len(names) > 0 && !slices.Contains(names, r.name()) {
			continue
		}
		fmt.Println("==", r.name())
		t, err := r.try(work, reasons)
		if err != nil {
			return false, fmt.Errorf("%s: %w", r.name(), err)
		}
		percent := 100
		if n := t.mutants(); n > 0 {
			percent = 100 * t.killed / n
		}
		ok = ok && percent >= least && t.explained == t.timedOut+t.survived && t.needless == 0
		table += fmt.Sprintf(row, r.name(), t.mutants(), t.killed, t.timedOut, t.survived, t.explained, fmt.Sprint(percent, "%"))
	}
	fmt.Print("\n", table)
	return ok, nil
}

// readReasons reads which mutants change nothing, and why. Each begins with
// its file and its line, the operator in « and »; lines under it that begin with a
// tab have the kind of mutant and the reason.
func readReasons() (map[string]string, error) {
	b, err := os.ReadFile(explained)
	if err != nil {
		return nil, err
	}
	reasons := make(map[string]string)
	place := ""
	for line := range strings.Lines(string(b)) {
		line = strings.TrimRight(line, "\n")
		kind, reason, _ := strings.Cut(strings.TrimSpace(line), ": ")
		switch {
		case line == "" || line[0] == '#':
		case line[0] != '\t':
			place = line
		case place == "" || reason == "":
			return nil, fmt.Errorf("%s: %q has no place or no reason", explained, line)
		default:
			reasons[place+" "+kind] = reason
		}
	}
	return reasons, nil
}

func (r room) name() string {
	return filepath.Join(r.dir, strings.TrimSuffix(r.file, ".go"))
}

// reasons returns those for the room's mutants.
func (r room) reasons(all map[string]string) map[string]string {
	own := maps.Clone(all)
	maps.DeleteFunc(own, func(key, _ string) bool {
		file, _, _ := strings.Cut(key, ": ")
		return r.file != file && (r.file != "" || r.dir != filepath.Dir(file))
	})
	return own
}

// try runs the room's tests on each of its mutants.
func (r room) try(work string, reasons map[string]string) (t tally, err error) {
	p, err := load("./" + r.dir)
	if err != nil {
		return t, err
	}
	overlay, mutants, err := p.mutate(work, r.file)
	if err != nil {
		return t, err
	}
	tests, err := r.build(work, "all", overlay)
	if err != nil {
		return t, err
	}
	began := time.Now()
	if out, err := r.test(tests, 0, 10*time.Minute); err != nil {
		return t, fmt.Errorf("its tests fail without a mutant: %w\n%s", err, out)
	}
	wait := max(leastWait, patience*time.Since(began))
	needless := r.reasons(reasons)
	for i, m := range mutants {
		mutated := tests
		if m.source != nil {
			if mutated, err = r.buildAlone(work, m); err != nil {
				continue // it does not compile: it is none
			}
		}
		_, err := r.test(mutated, i+1, wait)
		var failed *exec.ExitError
		what := "survives"
		switch {
		case errors.Is(err, context.DeadlineExceeded):
			t.timedOut++
			what = "times out"
		case errors.As(err, &failed):
			t.killed++
			continue
		case err != nil:
			return t, err
		default:
			t.survived++
		}
		if reasons[m.place+" "+m.kind] != "" {
			t.explained++
			delete(needless, m.place+" "+m.kind)
			continue
		}
		fmt.Printf("%s\n\t%s: %s, line %d\n", m.place, m.kind, what, m.line)
	}
	for _, key := range slices.Sorted(maps.Keys(needless)) {
		fmt.Printf("%s: is explained, but does not survive\n", key)
	}
	t.needless = len(needless)
	return t, nil
}

// build compiles the room's tests, with other files than there are.
func (r room) build(work, name string, overlay map[string]string) (tests string, err error) {
	if r.run != "" {
		if err := withoutExternal(overlay, r.dir); err != nil {
			return "", err
		}
	}
	replace, err := json.Marshal(map[string]any{"Replace": overlay})
	if err != nil {
		return "", err
	}
	list := filepath.Join(work, "overlay.json")
	if err := os.WriteFile(list, replace, 0o644); err != nil {
		return "", err
	}
	tests = filepath.Join(work, name+".test")
	if out, err := exec.Command("go", "test", "-c", "-vet=off", "-overlay", list, "-o", tests, "./"+r.dir).CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return tests, nil
}

// buildAlone compiles the room's tests with one mutant.
func (r room) buildAlone(work string, m mutant) (tests string, err error) {
	alone := filepath.Join(work, "alone.go")
	if err := os.WriteFile(alone, m.source, 0o644); err != nil {
		return "", err
	}
	return r.build(work, "alone", map[string]string{m.file: alone})
}

// withoutExternal leaves out the tests that are in a package of their own: a room
// that says which tests are fast means none of these.
func withoutExternal(overlay map[string]string, dir string) error {
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		return err
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if external.Match(b) {
			overlay[file] = ""
		}
	}
	return nil
}

var external = regexp.MustCompile(`(?m)^package \w+_test$`)

// test runs the tests on the mutant with this number; 0 is none. Its error wraps
// context.DeadlineExceeded if they have not ended in time.
func (r room) test(tests string, number int, wait time.Duration) (out []byte, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	cmd := exec.CommandContext(ctx, tests, "-test.short", "-test.failfast", "-test.run="+r.run)
	cmd.Dir = filepath.Clean(r.dir)
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", variable, number))
	cmd.WaitDelay = time.Second
	out, err = cmd.CombinedOutput()
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return out, err
}
