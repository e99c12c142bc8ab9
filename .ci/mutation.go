// Mutation changes one operator after the other in the rooms below, and runs
// their tests on each mutant. Tests that pass all the same do not look at what
// was changed.
//
// usage: mutation [room...]
//
// It fails if a room's tests kill less than 90% of its mutants, or one survives
// that the file mutants does not explain. A mutant whose tests do not end in time
// counts as one that survives, for the machine may just have been slow: it is not
// killed, and has to be explained. (Gremlins leaves it out of its percentage.) One
// that does not compile is none.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

const (
	gremlins  = "github.com/go-gremlins/gremlins/cmd/gremlins@v0.6.0"
	least     = 90   // percent of a room's mutants that its tests must kill
	patience  = "10" // times that the tests take, until a mutant has timed out
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
	{dir: "internal/clock"},
	{dir: "internal/deadline"},
	{dir: "internal/errs"},
	{dir: "internal/follow"},
	{dir: "internal/inbox"},
	{dir: "internal/loglimit"},
	{dir: "internal/netstring"},
	{dir: "internal/pieces"},
	{dir: "internal/places"},
	{dir: "internal/rate"},
	{dir: "internal/resp"},
	{dir: "internal/ring"},
	{dir: "internal/uplink"},
	{dir: "internal/wire"},
	{dir: "internal/frame"},
	{file: "envelope.go", run: "^(TestExtensions|TestEnvelope|TestOutgoingRelease|TestPack|TestCallsOverTheBounds|TestSendTimeout$)"},
	{file: "queue.go", run: "^(TestQueue|TestVolatileNeverCloses|TestTooSlowCountsOnce)"},
	{file: "gaps.go", run: "^(TestMalformedMakesGap|TestHeartbeatIsNoGap|TestSilenceInEveryOrder|TestGaps)"},
	{file: "heartbeat.go", run: "^(TestHealth|TestHeartbeat|TestProbeInterval)"},
}

// A tally counts the mutants of a room by what became of them.
type tally struct {
	killed, timedOut, survived int
	explained                  int // of the latter two
}

func (t tally) mutants() int { return t.killed + t.timedOut + t.survived }

func main() {
	log.SetFlags(0)
	log.SetPrefix("mutation: ")
	if real := os.Getenv(realGo); real != "" && filepath.Base(os.Args[0]) == "go" {
		asGo(real, os.Args[1:])
	}
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
	install := exec.Command("go", "install", gremlins)
	install.Env = append(os.Environ(), "GOBIN="+work)
	if out, err := install.CombinedOutput(); err != nil {
		return false, fmt.Errorf("%w\n%s", err, out)
	}
	if err := beGo(work); err != nil {
		return false, err
	}
	const row = "%-18s %8v %8v %9v %9v %9v %8v\n"
	table := fmt.Sprintf(row, "room", "mutants", "killed", "timed out", "survived", "explained", "percent")
	ok = true
	for _, r := range rooms {
		if len(names) > 0 && !slices.Contains(names, r.name()) {
			continue
		}
		found, err := r.unleash(work)
		if err != nil {
			return false, fmt.Errorf("%s: %w", r.name(), err)
		}
		var t tally
		for _, m := range found {
			ok = t.add(m, reasons) && ok
		}
		percent := 100
		if n := t.mutants(); n > 0 {
			percent = 100 * t.killed / n
		}
		ok = ok && percent >= least
		table += fmt.Sprintf(row, r.name(), t.mutants(), t.killed, t.timedOut, t.survived, t.explained, fmt.Sprint(percent, "%"))
	}
	fmt.Print("\n", table)
	return ok, nil
}

// add counts a mutant, and says whether there is no more to be said of it.
func (t *tally) add(m mutant, reasons map[string]string) bool {
	switch m.Status {
	case "KILLED":
		t.killed++
		return true
	case "NOT VIABLE":
		return true
	case "TIMED OUT":
		t.timedOut++
	default:
		t.survived++
	}
	if reasons[m.key()] != "" {
		t.explained++
		return true
	}
	fmt.Printf("%s\n\t%s: %s, line %d\n", m.place, m.Type, strings.ToLower(m.Status), m.Line)
	return false
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

// realGo is the environment variable with the real go command.
const realGo = "MUTATION_GO"

// beGo puts this program in front of the real go command.
func beGo(work string) error {
	real, err := exec.LookPath("go")
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if err := os.Symlink(self, filepath.Join(work, "go")); err != nil {
		return err
	}
	return errors.Join(os.Setenv(realGo, real), os.Setenv("PATH", work+string(os.PathListSeparator)+os.Getenv("PATH")))
}

// asGo runs the real go command for gremlins. That takes a mutant that does not
// compile for one that was killed, unless the exit status is 2. It tries only
// what it finds covered, which constants and the conditions of cases never are;
// so it is told that all is. And of the root the package is enough.
func asGo(real string, args []string) {
	if i := slices.Index(args, "./..."); i >= 0 {
		args[i] = "."
	}
	out, err := exec.Command(real, args...).CombinedOutput()
	os.Stdout.Write(out)
	if i := slices.Index(args, "-coverprofile"); i >= 0 && err == nil {
		err = coverAll(args[i+1])
	}
	var exit *exec.ExitError
	switch {
	case strings.Contains(string(out), "[build failed]"):
		os.Exit(2)
	case errors.As(err, &exit):
		os.Exit(exit.ExitCode())
	case err != nil:
		log.Fatal(err)
	}
	os.Exit(0)
}

// coverAll has a profile say that all lines of its files are covered.
func coverAll(profile string) error {
	b, err := os.ReadFile(profile)
	if err != nil {
		return err
	}
	all := blocks.ReplaceAll(b, []byte("$1:1.1,1000000.1 1 1"))
	return os.WriteFile(profile, all, 0o644)
}

var blocks = regexp.MustCompile(`(?m)^(\S+\.go):\S+ \d+ \d+$`)

func (r room) name() string {
	return filepath.Join(r.dir, strings.TrimSuffix(r.file, ".go"))
}

// A mutant is one of gremlins' report.
type mutant struct {
	Type, Status string
	Line, Column int

	place string // its file and line, the operator marked
}

func (m mutant) key() string { return m.place + " " + m.Type }

// unleash has gremlins try the room.
func (r room) unleash(work string) ([]mutant, error) {
	root, report := ".", filepath.Join(work, "report.json")
	flags := "-count=1 -vet=off -short -failfast -run=" + r.run
	args := []string{"unleash", "--workers", "1", "--timeout-coefficient", patience, "--output", report}
	if r.file != "" { // of a large package, which takes long to compile
		root = filepath.Join(work, r.name())
		flags += " '-gcflags=-N -l' '-ldflags=-s -w'"
		others, err := r.copyTo(root)
		if err != nil {
			return nil, err
		}
		args = append(args, "--exclude-files", "/")
		for _, file := range others {
			args = append(args, "--exclude-files", "^"+regexp.QuoteMeta(file)+"$")
		}
	}
	cmd := exec.Command(filepath.Join(work, "gremlins"), append(args, "./"+r.dir)...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "GOFLAGS="+flags)
	cmd.Stderr = os.Stderr
	fmt.Println("==", r.name())
	if out, err := cmd.Output(); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, out)
	}
	b, err := os.ReadFile(report)
	if err != nil {
		return nil, err
	}
	var result struct {
		Files []struct {
			Name      string `json:"file_name"`
			Mutations []mutant
		}
	}
	if err := json.Unmarshal(b, &result); err != nil {
		return nil, err
	}
	var found []mutant
	for _, f := range result.Files {
		located, err := locate(filepath.Join(r.dir, f.Name), f.Mutations)
		if err != nil {
			return nil, err
		}
		found = append(found, located...)
	}
	return found, nil
}

// copyTo copies the module without the tests of other packages, for it is
// copied again for gremlins, and without those in a package of their own, which
// take long to compile. It returns the other product files of the room's package.
func (r room) copyTo(root string) (others []string, err error) {
	out, err := exec.Command("git", "ls-files", "-z").Output()
	if err != nil {
		return nil, err
	}
	for name := range strings.SplitSeq(strings.TrimRight(string(out), "\x00"), "\x00") {
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		own := filepath.Dir(name) == filepath.Clean(r.dir)
		switch {
		case strings.HasSuffix(name, "_test.go"):
			if !own || external.Match(b) {
				continue
			}
		case own && filepath.Ext(name) == ".go" && filepath.Base(name) != r.file:
			others = append(others, filepath.Base(name))
		}
		to := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return nil, err
		}
		if err := os.WriteFile(to, b, 0o644); err != nil {
			return nil, err
		}
	}
	return others, nil
}

var external = regexp.MustCompile(`(?m)^package \w+_test$`)

// operators are what gremlins changes, the longer ones first.
var operators = []string{"<=", ">=", "==", "!=", "++", "--", "<", ">", "+", "-", "*", "/", "%"}

// locate says where the mutants of a file are.
func locate(name string, mutants []mutant) ([]mutant, error) {
	src, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	lines := strings.Split(string(src), "\n")
	for i, m := range mutants {
		line, at := lines[m.Line-1], m.Column-1
		operator := line[at : at+1]
		if n := slices.IndexFunc(operators, func(o string) bool { return strings.HasPrefix(line[at:], o) }); n >= 0 {
			operator = operators[n]
		}
		mutants[i].place = name + ": " + strings.TrimSpace(line[:at]+"«"+operator+"»"+line[at+len(operator):])
	}
	return mutants, nil
}
