package historymodel

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"testing"

	"github.com/heraldgo/herald/internal/test/overlay"
)

// A mutant is the code without one of its rules.
type mutant struct {
	rule  string
	edits []overlay.Edit
}

const (
	excerptFile = "internal/history/excerpt.go"
	readFile    = "internal/history/store/read.go"
	logFile     = "internal/history/store/log.go"
	segFile     = "internal/history/store/segments.go"
	feedFile    = "internal/history/node/feed.go"
	repairFile  = "internal/history/node/repair.go"
	pubFile     = "internal/history/node/publisher.go"
	deviceFile  = "internal/history/device/device.go"
	resumeFile  = "internal/history/device/resume.go"
	clientFile  = "internal/history/device/client.go"
	hubFile     = "internal/test/historymodel/node.go"
	redisFile   = "internal/test/historymodel/cluster.go"
)

var mutants = []mutant{
	{"a Mark goes through the inbox", []overlay.Edit{{hubFile,
		"	s.inbox = append(s.inbox, e)\n",
		"	if e.kind == fence {\n s.do(s.feed.Mark(e.end))\n return\n }\n s.inbox = append(s.inbox, e)\n"}}},
	{"the welcome has the positions that the client gave", []overlay.Edit{{deviceFile,
		"	return d, welcome\n", "	welcome.Positions = feeds\n return d, welcome\n"}}},
	{"a backlog is read by offset, not topic by topic", []overlay.Edit{
		{readFile, "range topics {\n", "range topics {\n begin := len(s.Offsets)\n"},
		{readFile, "append(s.Offsets, at)", "slices.Insert(s.Offsets, begin, at)"},
		{readFile, "	slices.Sort(s.Offsets)\n", ""}}},
	{"a device has a floor", []overlay.Edit{{deviceFile,
		"c.at.Epoch == at.Epoch && c.at.Offset < at.Offset", "c.at.Epoch == at.Epoch"}}},
	{"the epoch is tied to the replication id, not to the run", []overlay.Edit{{redisFile,
		"Server: s.repl,", "Server: s.runID,"}}},
	{"a failover is no move of a slot", []overlay.Edit{{redisFile,
		"next.repl, next.from = c.w.name(\"repl\"), \"\"", "next.repl, next.from = c.w.name(\"repl\"), old.repl"}}},
	{"nothing live is queued during a resume", []overlay.Edit{{deviceFile,
		"p.Kept && d.cursors[partition].state != live", "false"}}},
	{"a move between masters is told", []overlay.Edit{{repairFile,
		"f.doubt || !survey.Whole", "f.doubt || !survey.Whole && survey.Fork.Epoch == 0"}}},
	{"what a survey has seen of an unknown epoch is taken from the link", []overlay.Edit{{repairFile,
		"survey.From, survey.End.Offset = s.Fork.At, s.Fork.At", "survey.From = s.Fork.At"}}},
	{"what is not kept is not published", []overlay.Edit{{pubFile,
		"return !d.Unkept", "return false"}}},

	{"no resume is complete across a move", []overlay.Edit{{readFile,
		"v.Horizon), false, fork", "v.Horizon), p.Offset <= v.Survived, fork"}}},
	{"a position below the horizon is not whole", []overlay.Edit{{readFile,
		"p.Offset >= v.Horizon, fork", "true, fork"}}},
	{"what was forgotten is told", []overlay.Edit{{readFile,
		"stop, s.Whole = cut, false", "stop = cut"}}},
	{"what was forgotten is served to nobody", []overlay.Edit{{readFile,
		"cut := t.forgot[topic]; cut > stop", "cut := t.forgot[topic]; cut > stop && false"}}},
	{"a chain that breaks is told", []overlay.Edit{{readFile,
		"				s.Whole = false\n", ""}}},
	{"a read counts only in the epoch of its survey", []overlay.Edit{{readFile,
		"if l.begin(c).epoch != epoch {", "if l.begin(c); false {"}}},
	{"what an acknowledgement contradicts begins an epoch", []overlay.Edit{{logFile,
		"return known.Offset > 0 && (!ok || known.Offset > at)", "_, _ = at, ok\n return false"}}},
	{"a segment that begins is empty", []overlay.Edit{{segFile,
		"	delete(l.segments, n)\n	t.counter", "	t.counter"}}},
	{"no Mark is made while something is held", []overlay.Edit{{feedFile,
		"	case f.state != flowing:\n", ""}}},
	{"a node's survey has all its topics", []overlay.Edit{{feedFile,
		"	f.chains.renew(topic)\n	if f.state == asked {", "	f.chains.renew(topic)\n	if false {"}}},
	{"a device's survey has all its topics", []overlay.Edit{{resumeFile,
		"c.round == 0 || c.state != asked {", "c != nil {"}}},
	{"a gap is told before what lies behind it", []overlay.Edit{{resumeFile,
		"	s.Frames = append(s.Frames, Frame{Kind: Gap, Partition: partition})\n", ""}}},
	{"a segment that is lost while it is read is told", []overlay.Edit{{resumeFile,
		"	if !whole {", "	if false && !whole {"}}},
	{"what was read ahead goes to a device page by page", []overlay.Edit{{excerptFile,
		"	return x.Entries[:i:i], ", "	return x.Entries, "}}},
	{"a device goes live only if it can have what was handed on", []overlay.Edit{{resumeFile,
		"	if !ok {\n		s.Ask = c.ask(d.limits.Survey)\n		return\n	}", "	if !ok {\n		left = nil\n	}"}}},
	{"a device that follows takes pages without a hole", []overlay.Edit{{resumeFile,
		"left[:min(len(left), d.limits.Page)]", "left[len(left)-d.limits.Page:]"}}},
	{"a dropped frame is told", []overlay.Edit{{deviceFile,
		"	if f.At.Epoch == 0 || d.dropped {", "	if true {"}}},
	{"Except outlives a connection", []overlay.Edit{{deviceFile,
		"append([]string{conn}, last...)", "[]string{conn}"}}},
	{"removing moves the horizon, not the clock", []overlay.Edit{{segFile,
		"	t.horizon = ",
		"	if old := t.horizon; c.Now-t.spans[0].began < t.agreed.Age {\n defer func() { t.horizon = old }()\n }\n t.horizon = "}}},
	{"an offset may have more topics", []overlay.Edit{{feedFile,
		"p.At.Offset-1)", "p.At.Offset)"}}},
	{"a client remembers the epochs that it has left", []overlay.Edit{{clientFile,
		"before = trail.Passed(to)", "before = false"}}},
	{"a client leaves out second copies", []overlay.Edit{{clientFile,
		"again := c.had.again(f.ID, clientIDs)", "again := false"}}},
}

// mutantEnv makes TestModel expect a finding, and stop at the first.
const mutantEnv = "HERALD_HISTORY_MUTANT"

var foundAfter = regexp.MustCompile(`found after (\d+) runs: (.*)`)

// If any one of the rules is taken away, the model finds a fault within ten
// thousand runs. So each rule is needed, and the model would notice if it broke.
func TestMutants(t *testing.T) {
	if os.Getenv(mutantEnv) != "" {
		return // this is the child
	}
	for _, m := range mutants {
		t.Run(m.rule, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), "go", "test", "-count=1", "-vet=off", "-overlay", overlay.Make(t, "../../..", m.edits), "-run", "^TestModel$", "-v", ".")
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
