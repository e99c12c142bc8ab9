package protocol_test

import (
	"cmp"
	"encoding/json"
	"maps"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/heraldgo/herald/internal/history"
	"github.com/heraldgo/herald/internal/history/device"
	"github.com/heraldgo/herald/internal/history/protocol"
)

const root = "../../../"

// load reads a file of test vectors.
func load(t testing.TB, name string, v any) {
	t.Helper()
	b, err := os.ReadFile(root + "testdata/protocol/" + name)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

// vectors is the content of frames.json.
type vectors struct {
	Server         []serverFrame
	Ignored        []string
	Refused        []string
	Client         []clientFrame
	ClientRefused  []string `json:"client_refused"`
	Queries        []query
	QueriesPlain   []string `json:"queries_plain"`
	QueriesRefused []string `json:"queries_refused"`
}

type serverFrame struct {
	Frame, Kind, Position, ID, Payload, Verdict, Conn, User, Positions string
	Resumed                                                            bool
	Since, Until                                                       time.Time
	N                                                                  uint64
	Reading                                                            bool // no server of this version writes it
}

type clientFrame struct {
	Frame, Kind, Payload, Positions string
	N                               uint64
}

type query struct {
	Query, From string
	Conns       []string
	Reading     bool
}

var kinds = map[string]device.Kind{
	"message": device.Message, "mark": device.Mark, "welcome": device.Welcome, "gap": device.Gap, "answer": device.Answer,
}

var verdicts = map[string]device.Verdict{"": device.NoVerdict, "complete": device.Complete, "incomplete": device.Incomplete}

func positions(t testing.TB, text string) (p history.Positions) {
	t.Helper()
	if err := p.UnmarshalText([]byte(text)); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return p
}

// want returns the frame of a vector.
func (v serverFrame) want(t testing.TB) protocol.Frame {
	f := protocol.Frame{Since: v.Since, Until: v.Until, User: v.User, N: v.N}
	f.Kind, f.Verdict = kinds[v.Kind], verdicts[v.Verdict]
	f.ID, f.Body = v.ID, []byte(v.Payload)
	f.Conn, f.Positions, f.Resumed = v.Conn, positions(t, v.Positions), v.Resumed
	if v.Position != "" {
		var err error
		if f.Partition, f.At, err = history.ParsePosition([]byte(v.Position)); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func same(a, b protocol.Frame) bool {
	x, y := a.Frame, b.Frame
	return a.User == b.User && a.N == b.N && a.Since.Equal(b.Since) && a.Until.Equal(b.Until) &&
		x.Kind == y.Kind && x.Partition == y.Partition && x.At == y.At && x.ID == y.ID && string(x.Body) == string(y.Body) &&
		x.Conn == y.Conn && x.Positions == y.Positions && x.Resumed == y.Resumed && x.Verdict == y.Verdict
}

// Frames are written as these bytes, and read back.
func TestServerFrames(t *testing.T) {
	var v vectors
	load(t, "frames.json", &v)
	for _, vector := range v.Server {
		want := vector.want(t)
		got, err := protocol.ParseFrame([]byte(vector.Frame))
		if err != nil || !same(got, want) {
			t.Errorf("%q is read as %+v, %v", vector.Frame, got, err)
		}
		if vector.Reading {
			continue
		}
		if b := append(protocol.AppendHeader(nil, &want), want.Body...); string(b) != vector.Frame {
			t.Errorf("%q is written as %q", vector.Frame, b)
		}
	}
	for _, frame := range v.Ignored {
		if f, err := protocol.ParseFrame([]byte(frame)); err != nil || f.Kind != 0 {
			t.Errorf("%q is not ignored: %v, %v", frame, f.Kind, err)
		}
	}
	for _, frame := range v.Refused {
		if f, err := protocol.ParseFrame([]byte(frame)); err == nil {
			t.Errorf("%q is taken as %+v", frame, f)
		}
	}
}

// A gap is told even if JSON cannot have its times.
func TestGapOfNoTime(t *testing.T) {
	f := protocol.Frame{Since: time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC)}
	f.Kind = device.Gap
	if b := protocol.AppendHeader(nil, &f); string(b) != "g {}\n" {
		t.Errorf("%q", b)
	}
}

// A client's messages are written as these bytes, and read back.
func TestClientFrames(t *testing.T) {
	var v vectors
	load(t, "frames.json", &v)
	kinds := map[string]protocol.ControlKind{"text": protocol.Text, "ack": protocol.Ack, "probe": protocol.Probe}
	for _, vector := range v.Client {
		want := protocol.Control{Kind: kinds[vector.Kind], Text: []byte(vector.Payload), Positions: positions(t, vector.Positions), N: vector.N}
		got, err := protocol.ParseControl([]byte(vector.Frame))
		if err != nil || got.Kind != want.Kind || string(got.Text) != string(want.Text) || got.Positions != want.Positions || got.N != want.N {
			t.Errorf("%q is read as %+v, %v", vector.Frame, got, err)
		}
		if b := protocol.AppendControl(nil, &want); string(b) != vector.Frame {
			t.Errorf("%q is written as %q", vector.Frame, b)
		}
	}
	for _, frame := range v.ClientRefused {
		if c, err := protocol.ParseControl([]byte(frame)); err == nil {
			t.Errorf("%q is taken as %+v", frame, c)
		}
	}
}

func parseQuery(t testing.TB, text string) (protocol.Resume, bool, error) {
	t.Helper()
	values, err := url.ParseQuery(text)
	if err != nil {
		t.Fatal(err)
	}
	return protocol.ParseQuery(values)
}

// Queries are what clients send when they connect.
func TestQueries(t *testing.T) {
	var v vectors
	load(t, "frames.json", &v)
	for _, vector := range v.Queries {
		got, asks, err := parseQuery(t, vector.Query)
		if err != nil || !asks || got.From != positions(t, vector.From) || !slices.Equal(got.Conns, vector.Conns) {
			t.Errorf("%q is read as %+v, %v, %v", vector.Query, got, asks, err)
		}
		if vector.Reading {
			continue
		}
		own, _, _ := strings.Cut(vector.Query, "herald=")
		if text := got.AddTo(strings.TrimSuffix(own, "&")); text != vector.Query {
			t.Errorf("%q is written as %q", vector.Query, text)
		}
	}
	for _, text := range v.QueriesPlain {
		if _, asks, err := parseQuery(t, text); asks || err != nil {
			t.Errorf("%q is taken: %v, %v", text, asks, err)
		}
	}
	for _, text := range v.QueriesRefused {
		if r, _, err := parseQuery(t, text); err == nil {
			t.Errorf("%q is taken as %+v", text, r)
		}
	}
	for _, text := range []string{strings.Repeat("a", 201), strings.Repeat("a,", 1<<20) + "a"} {
		if _, _, err := parseQuery(t, "herald=1&herald.conn="+text); err == nil {
			t.Errorf("%d bytes of ids are taken", len(text))
		}
	}
}

// An id has at most 200 characters, all of which a URL's query takes unescaped.
func TestIDs(t *testing.T) {
	long := strings.Repeat("x", 200)
	all := strings.Join(slices.Repeat([]string{long}, device.MaxConns), ",")
	for _, text := range []string{"a", "z", "A", "Z", "0", "9", ".", "_", "~", "-a", "--", long, all} {
		if _, _, err := parseQuery(t, "herald=1&herald.conn="+text); err != nil {
			t.Errorf("%q is refused: %v", text, err)
		}
	}
	for _, text := range []string{"-", "%2F", ":", "@", "[", "%60", "%7B", "%7F", "%C3%A9", "a,", ",a", all + ",x"} {
		if r, _, err := parseQuery(t, "herald=1&herald.conn="+text); err == nil {
			t.Errorf("%q is taken as %+v", text, r)
		}
	}
}

func TestPositions(t *testing.T) {
	var v struct {
		Valid []struct {
			Text   string
			Points []struct {
				Partition     int
				Epoch, Offset string
			}
		}
		Refused []string
	}
	load(t, "positions.json", &v)
	for _, vector := range v.Valid {
		var want history.Positions
		for _, p := range vector.Points {
			epoch, err1 := strconv.ParseUint(p.Epoch, 16, 64)
			offset, err2 := strconv.ParseUint(p.Offset, 10, 64)
			if err := cmp.Or(err1, err2); err != nil {
				t.Fatal(err)
			}
			want[p.Partition] = history.Point{Epoch: history.Epoch(epoch), Offset: history.Offset(offset)}
		}
		if got := positions(t, vector.Text); got != want {
			t.Errorf("%q is read as %v", vector.Text, got)
		}
		if b, err := want.AppendText(nil); err != nil || string(b) != vector.Text {
			t.Errorf("%q is written as %q, %v", vector.Text, b, err)
		}
	}
	for _, text := range v.Refused {
		var p history.Positions
		if p.UnmarshalText([]byte(text)) == nil {
			t.Errorf("%q is taken as %v", text, p)
		}
	}
}

// Saved positions are read back.
func TestSaved(t *testing.T) {
	for _, text := range []string{"", "0.a.1", "0.a.1 c.1", "0.a.1,3.b.2 c.2,c.1", " c.1"} {
		var r protocol.Resume
		err := r.UnmarshalText([]byte(text))
		b, err2 := r.MarshalText()
		if err != nil || err2 != nil || string(b) != text {
			t.Errorf("%q comes back as %q: %v, %v", text, b, err, err2)
		}
	}
	for _, text := range []string{" ", "0.a.1 ", "0.a.1  c", "x", "0.a.1 a b", "0.a.1 a,b,c,d,e", "0.a.1\nc"} {
		var r protocol.Resume
		if r.UnmarshalText([]byte(text)) == nil {
			t.Errorf("%q is taken as %+v", text, r)
		}
	}
}

// The examples in PROTOCOL.md are among the vectors. In the blocks that are marked
// so, "?" begins a query, "<" what the server sends and ">" what the client sends,
// and "⏎" is the end of a header line.
func TestSpecification(t *testing.T) {
	var v vectors
	load(t, "frames.json", &v)
	known := make(map[string]bool)
	for _, f := range v.Server {
		known["< "+f.Frame] = true
	}
	for _, f := range v.Client {
		known["> "+f.Frame] = true
	}
	for _, q := range v.Queries {
		known["? "+q.Query] = true
	}
	document, err := os.ReadFile(root + "PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	shown := make(map[string]bool)
	within := false
	for line := range strings.Lines(string(document)) {
		line = strings.TrimSuffix(line, "\n")
		if strings.HasPrefix(line, "```") {
			within = line == "```herald"
			continue
		}
		if !within || line == "" {
			continue
		}
		example := strings.ReplaceAll(line, "⏎", "\n")
		shown[example[:3]] = true
		if !known[example] {
			t.Errorf("PROTOCOL.md: %q is in no vector", line)
		}
	}
	want := []string{"< !", "< g", "< m", "< p", "< w", "> @", "? h"}
	if got := slices.Sorted(maps.Keys(shown)); !isSubset(want, got) {
		t.Errorf("PROTOCOL.md shows %q, not all of %q", got, want)
	}
}

func isSubset(small, large []string) bool {
	return !slices.ContainsFunc(small, func(s string) bool { return !slices.Contains(large, s) })
}

// Writing a header does not allocate.
func TestHeaderAllocations(t *testing.T) {
	f := protocol.Frame{}
	f.Kind, f.At, f.ID = device.Message, history.Point{Epoch: 0x5eed, Offset: 1042}, "k7Q"
	b := make([]byte, 0, 64)
	if n := testing.AllocsPerRun(100, func() { protocol.AppendHeader(b, &f) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	text := []byte("Hello")
	if n := testing.AllocsPerRun(100, func() { protocol.ParseControl(text) }); n != 0 {
		t.Errorf("%v allocations for an application's text", n)
	}
}

// BareMark returns the partition of a mark without a verdict, and takes no other
// line for one.
func TestBareMark(t *testing.T) {
	for line, want := range map[string]string{"p 3.ff.7": "3", "p 12.ff.7": "12", "p 3.ff.7 complete": "", "p 3": "", "m 3.ff.7": "", "p  3.ff.7": "", "": ""} {
		if partition, ok := protocol.BareMark([]byte(line)); string(partition) != want && ok || ok != (want != "") {
			t.Errorf("%q: partition %q, %v", line, partition, ok)
		}
	}
}
