package historymodel

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// A mutant is the code without one of its rules.
type mutant struct {
	rule  string
	edits []edit
}

// An edit replaces a text that is in a file once.
type edit struct{ file, from, to string }

const (
	readFile   = "internal/history/store/read.go"
	logFile    = "internal/history/store/log.go"
	segFile    = "internal/history/store/segments.go"
	feedFile   = "internal/history/node/feed.go"
	repairFile = "internal/history/node/repair.go"
	pubFile    = "internal/history/node/publisher.go"
	deviceFile = "internal/history/device/device.go"
	resumeFile = "internal/history/device/resume.go"
	clientFile = "internal/history/device/client.go"
	hubFile    = "internal/test/historymodel/node.go"
	redisFile  = "internal/test/historymodel/cluster.go"
)

var mutants = []mutant{
	{"a Mark goes through the inbox", []edit{{hubFile,
		"	s.inbox = append(s.inbox, e)\n",
		"	if e.kind == fence {\n s.do(s.feed.Mark(e.end))\n return\n }\n s.inbox = append(s.inbox, e)\n"}}},
	{"the welcome has the positions that the client gave", []edit{{deviceFile,
		"	return d, welcome\n", "	welcome.Positions = feeds\n return d, welcome\n"}}},
	{"a backlog is read by offset, not topic by topic", []edit{
		{readFile, "range topics {\n", "range topics {\n begin := len(s.Offsets)\n"},
		{readFile, "append(s.Offsets, at)", "slices.Insert(s.Offsets, begin, at)"},
		{readFile, "	slices.Sort(s.Offsets)\n", ""}}},
	{"a device has a floor", []edit{{deviceFile,
		"c.at.Epoch == at.Epoch && c.at.Offset < at.Offset", "c.at.Epoch == at.Epoch"}}},
	{"the epoch is tied to the replication id, not to the run", []edit{{redisFile,
		"Server: s.repl,", "Server: s.runID,"}}},
	{"nothing live is queued during a resume", []edit{{deviceFile,
		"p.Kept && d.cursors[partition].state != live", "false"}}},
	{"a move between masters is told", []edit{{repairFile,
		"f.doubt || !survey.Whole", "f.doubt || !survey.Whole && survey.Fork.Epoch == 0"}}},
	{"what is not kept is not published", []edit{{pubFile,
		"return !d.Unkept", "return false"}}},

	{"no resume is complete across a move", []edit{{readFile,
		"v.Horizon), false, fork", "v.Horizon), p.Offset <= v.Survived, fork"}}},
	{"a position below the horizon is not whole", []edit{{readFile,
		"p.Offset >= v.Horizon, fork", "true, fork"}}},
	{"what was forgotten is told", []edit{{readFile,
		"stop, s.Whole = cut, false", "stop = cut"}}},
	{"what was forgotten is served to nobody", []edit{{readFile,
		"cut := t.forgot[topic]; cut > stop", "cut := t.forgot[topic]; cut > stop && false"}}},
	{"a chain that breaks is told", []edit{{readFile,
		"				s.Whole = false\n", ""}}},
	{"a read counts only in the epoch of its survey", []edit{{readFile,
		"if l.begin(c).epoch != epoch {", "if l.begin(c); false {"}}},
	{"what an acknowledgement contradicts begins an epoch", []edit{{logFile,
		"return known.Offset > 0 && (!ok || known.Offset > at)", "_, _ = at, ok\n return false"}}},
	{"a segment that begins is empty", []edit{{segFile,
		"	delete(l.segments, n)\n	t.counter", "	t.counter"}}},
	{"no Mark is made while something is held", []edit{{feedFile,
		"	case f.state != flowing:\n", ""}}},
	{"a node's survey has all its topics", []edit{{feedFile,
		"	f.chains.renew(topic)\n	if f.state == asked {", "	f.chains.renew(topic)\n	if false {"}}},
	{"a device's survey has all its topics", []edit{{resumeFile,
		"c.round == 0 || c.state != asked {", "c != nil {"}}},
	{"a gap is told before what lies behind it", []edit{{resumeFile,
		"	s.Frames = append(s.Frames, Frame{Kind: Gap, Partition: partition})\n", ""}}},
	{"a segment that is lost while it is read is told", []edit{{resumeFile,
		"	if !whole {", "	if false && !whole {"}}},
	{"a device goes live only if it can have what was handed on", []edit{{resumeFile,
		"	if !ok {\n		s.Ask = c.ask(d.limits.Survey)\n		return\n	}", "	if !ok {\n		left = nil\n	}"}}},
	{"a dropped frame is told", []edit{{deviceFile,
		"	if f.At.Epoch == 0 || d.dropped {", "	if true {"}}},
	{"Except outlives a connection", []edit{{deviceFile,
		"append([]string{conn}, last...)", "[]string{conn}"}}},
	{"removing moves the horizon, not the clock", []edit{{segFile,
		"	t.horizon = ",
		"	if old := t.horizon; c.Now-t.spans[0].began < t.agreed.Age {\n defer func() { t.horizon = old }()\n }\n t.horizon = "}}},
	{"an offset may have more topics", []edit{{feedFile,
		"p.At.Offset-1)", "p.At.Offset)"}}},
	{"a client remembers the epochs that it has left", []edit{{clientFile,
		"before = trail.Passed(to)", "before = false"}}},
	{"a client leaves out second copies", []edit{{clientFile,
		"again := c.had.again(f.ID)", "again := false"}}},
}

// mutantEnv makes TestModel stop at what it finds first, and expect it.
const mutantEnv = "HERALD_HISTORY_MUTANT"

var foundAfter = regexp.MustCompile(`found after (\d+) runs: (.*)`)

// Without any one of the rules the model finds something, within ten thousand
// runs. So each rule is needed, and the model would notice if it broke.
func TestMutants(t *testing.T) {
	if os.Getenv(mutantEnv) != "" {
		return // this is the child
	}
	root, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mutants {
		t.Run(m.rule, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), "go", "test", "-count=1", "-vet=off", "-overlay", m.overlay(t, root), "-run", "^TestModel$", "-v", ".")
			cmd.Env = append(os.Environ(), mutantEnv+"=1", runsEnv+"=10000")
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			found := foundAfter.FindSubmatch(out)
			if found == nil {
				t.Fatalf("nobody notices that it is gone:\n%s", out)
			}
			fmt.Printf("%5s runs until it is missed that %s (%s)\n", found[1], m.rule, found[2])
		})
	}
}

// overlay returns a file for -overlay, which has the mutant's files in place of
// the real ones.
func (m mutant) overlay(t *testing.T, root string) string {
	t.Helper()
	texts := make(map[string]string)
	for _, e := range m.edits {
		file := filepath.Join(root, e.file)
		text, ok := texts[file]
		if !ok {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			text = string(b)
		}
		if n := strings.Count(text, e.from); n != 1 {
			t.Fatalf("%s has %d times, not once: %q", e.file, n, e.from)
		}
		texts[file] = strings.Replace(text, e.from, e.to, 1)
	}
	dir := t.TempDir()
	replace := make(map[string]string)
	for file, text := range texts {
		replace[file] = filepath.Join(dir, fmt.Sprint(len(replace), ".go"))
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
