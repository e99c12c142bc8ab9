package resumetest_test

import (
	"cmp"
	"regexp"
	"testing"

	"github.com/heraldgo/herald/internal/test/overlay"
)

// A broken promise is an edit that takes away the code which keeps it.
type broken struct {
	promise string // its number
	without string
	edits   []overlay.Edit
	on      string // the test of it, if it cannot be tested in memory
}

const (
	resumeFile   = "internal/history/device/resume.go"
	deviceFile   = "internal/history/device/device.go"
	sideFile     = "internal/history/driver/side.go"
	appendFile   = "internal/history/driver/append.go"
	readFile     = "internal/history/store/read.go"
	segmentsFile = "internal/history/store/segments.go"
	queryFile    = "internal/history/protocol/resume.go"
	repairFile   = "internal/history/node/repair.go"
	historyFile  = "history.go"
	connLogFile  = "resume.go"
	shutdownFile = "shutdown.go"
)

var brokenPromises = []broken{
	{"1", "the order of the log", []overlay.Edit{{resumeFile,
		"	for _, e := range entries {\n		p :=", "	for i := range entries {\n		e := entries[len(entries)-1-i]\n		p :="}}, ""},
	{"1", "a question to the log", []overlay.Edit{{deviceFile, "		if back {\n			d.cursors", "		if false {\n			d.cursors"}}, ""},
	{"2", "a welcome with the client's positions", []overlay.Edit{{deviceFile,
		"	return d, welcome\n", "	welcome.Positions = feeds\n	return d, welcome\n"}}, ""},
	{"3", "positions for new clients", []overlay.Edit{{deviceFile,
		"	return d, welcome\n", "	if !back {\n		welcome.Positions = history.Positions{}\n	}\n	return d, welcome\n"}}, ""},
	{"4", "marks", []overlay.Edit{{sideFile, "now.Sub(s.marked) < s.marking", "s.marking > 0"}}, ""},
	{"5", "a wait until what is live may go", []overlay.Edit{{deviceFile,
		"p.Kept && d.cursors[partition].state != live", "false"}}, ""},
	{"6", "a wait for room", []overlay.Edit{{connLogFile, "	q, config := &l.c.queue, &l.c.hub.config\n	return q.size()",
		"	q, config := &l.c.queue, &l.c.hub.config\n	return true || q.size()"}}, ""},
	{"6", "a bound on what a client takes when it goes live", []overlay.Edit{{resumeFile, "if len(left) > d.limits.Live {",
		"if false {"}, {resumeFile, "if len(left) > d.limits.Live && len(left) >= d.limits.Page {", "if false {"}}, ""},
	{"7", "a look at all groups", []overlay.Edit{{connLogFile,
		"l.c.hub.index.topicsOf(l.c))[partition]", "l.c.hub.index.topicsOf(l.c)[:1])[partition]"}}, ""},
	{"8", "a look at groups when messages are handed over", []overlay.Edit{{resumeFile, "if !d.holds(e) {", "if false && !d.holds(e) {"}}, ""},
	{"9", "a filter for what was missed", []overlay.Edit{{connLogFile, "if !sieve.passes(l.c) {", "if false && !sieve.passes(l.c) {"}}, ""},
	{"9", "the connections before this one", []overlay.Edit{{deviceFile,
		"append([]string{conn}, last...)", "[]string{conn}"}}, ""},
	{"10", "a difference between what is kept and what is not", []overlay.Edit{{historyFile, "Unkept: !kept}", "Unkept: false && kept}"}}, ""},
	{"11", "a memory of what has come", []overlay.Edit{{deviceFile, "case d.had.again(l.ID, deviceIDs):", "case false:"}}, ""},
	{"12", "the end of the log", []overlay.Edit{{appendFile, "ends[i], results[i] = survey.End, err; err == nil {\n",
		"ends[i], results[i] = survey.End, err; err == nil {\n				ends[i].Offset--\n"}}, ""},
	{"12", "what comes behind the end of the log", []overlay.Edit{{appendFile, "ends[i], results[i] = survey.End, err; err == nil {\n",
		"ends[i], results[i] = survey.End, err; err == nil {\n				ends[i].Offset++\n"}}, ""},
	{"13", "doubts about an unknown epoch", []overlay.Edit{{readFile,
		"return v.End.Offset, false, history.Fork{Epoch", "return v.End.Offset, true, history.Fork{Epoch"}}, ""},
	{"13", "doubts about the future", []overlay.Edit{{readFile,
		"return v.End.Offset, false, fork //", "return v.End.Offset, true, fork //"}}, ""},
	{"14", "removal by age", []overlay.Edit{{segmentsFile, " || now-t.spans[1].began >= t.agreed.Age", ""}}, ""},
	{"14", "a look at the horizon", []overlay.Edit{{readFile, "p.Offset >= v.Horizon, fork", "true, fork"}}, ""},
	{"15", "removal by bytes", []overlay.Edit{{segmentsFile, "bytes > t.agreed.Bytes || ", ""}}, ""},
	{"16", "a Gap for what is dropped", []overlay.Edit{{connLogFile, "	if !l.gap {", "	if false {"}}, ""},
	{"17", "a look at signatures", []overlay.Edit{{historyFile, "if hmac.Equal([]byte(k.sign(user, id)), []byte(s)) {",
		"if true || hmac.Equal([]byte(k.sign(user, id)), []byte(s)) {"}}, ""},
	{"17", "the connections before this one", []overlay.Edit{{connLogFile, "	return c.queue.log.last[0]", "	return \"\""}}, ""},
	{"18", "a look at positions", []overlay.Edit{{queryFile,
		"len(from) == 1 && r.From.UnmarshalText([]byte(from[0])) != nil {", "len(from) == 1 && r.From.UnmarshalText([]byte(from[0])) != nil && false {"}}, ""},
	{"19", "the meaning of @@", []overlay.Edit{{connLogFile,
		"	case c.Kind == protocol.Text:\n", "	case c.Kind == protocol.Text && false:\n"}}, ""},
	{"20", "a look for probes", []overlay.Edit{{connLogFile, "bool { return c.queue.log.comesBack() }", "bool { return false && c.queue.log.comesBack() }"}}, ""},
	{"21", "trust in the log", []overlay.Edit{{repairFile, "s.Gap = f.doubt || !survey.Whole", "s.Gap = true"}}, ""},
	{"21", "what the log has", []overlay.Edit{{repairFile, "f.merge(&s, entries, through)", "f.merge(&s, nil, through)"}}, "TestHistoryOnMiniredis"},
	{"22", "refusals", []overlay.Edit{{appendFile, "node.Alone(drafts)", "drafts"}, {appendFile, `	"github.com/heraldgo/herald/internal/history/node"` + "\n", ""}}, "TestHistoryOnRedis"},
	{"23", "Gaps for clients", []overlay.Edit{{sideFile, "			c.conn.Gap(c.device.Gap(s.partition), since)\n", "			_ = c\n"}}, "TestHistoryOnMiniredis"},
	{"24", "a word that it restarts", []overlay.Edit{{shutdownFile, "Code: StatusServiceRestart", "Code: StatusGoingAway"}}, ""},
	{"25", "a note of what was forgotten", []overlay.Edit{{readFile, "stop, s.Whole = cut, false", "stop = cut"}}, ""},
}

var failed = regexp.MustCompile(`(?m)^ *--- FAIL: TestHistory\w+/`)

// If the code breaks a promise, the subtest of TestHistory for that promise fails.
func TestBrokenPromises(t *testing.T) {
	var rules []overlay.Rule
	for _, b := range brokenPromises {
		run := "^" + cmp.Or(b.on, "TestHistoryInMemory") + "$/^" + b.promise + "_"
		rules = append(rules, overlay.Rule{Name: b.promise + " without " + b.without, Edits: b.edits, Package: "internal/test/resumetest", Run: run})
	}
	overlay.Broken(t, "../../..", failed, rules)
}
