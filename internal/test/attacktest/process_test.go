package attacktest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald/internal/test/redistest"
	"github.com/heraldgo/herald/internal/test/servertest"
)

// A process is a child process that runs this program in a role.
type process struct {
	cmd   *exec.Cmd
	stdin io.Closer
	out   *json.Decoder // stdout
}

// launch starts a process. It ends with the test, if not before.
func launch(t testing.TB, o order, stderr io.Writer) *process {
	t.Helper()
	env, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: exec.Command(os.Args[0])}
	p.cmd.Env = append(os.Environ(), role+"="+string(env), fmt.Sprint("GOMAXPROCS=", runtime.GOMAXPROCS(0)))
	p.cmd.Stderr = stderr
	stdin, err := p.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.stdin, p.out = stdin, json.NewDecoder(stdout)
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		p.cmd.Wait()
	})
	return p
}

// attack starts attackers. The returned function ends them and returns the cost of
// each attack.
func (n *node) attack(gentle bool, names ...string) func() map[string]cost {
	n.t.Helper()
	p := launch(n.t, order{Attacks: names, Addr: n.Addr, Gentle: gentle}, os.Stderr)
	return func() map[string]cost {
		n.t.Helper()
		p.stdin.Close()
		var costs map[string]cost
		if err := p.out.Decode(&costs); err != nil {
			n.t.Fatalf("attackers: %v", err)
		}
		p.cmd.Wait()
		return costs
	}
}

// A node is the test's end of a node's process, with a Redis of its own.
type node struct {
	hello
	*process
	t   testing.TB
	log logCounter
	rdb *redis.Client
}

func startNode(t testing.TB, s setting) *node {
	t.Helper()
	server := redistest.Start(t)
	n := &node{t: t, rdb: server.Client()}
	n.process = launch(t, order{Redis: server.Addr, Setting: s}, &n.log)
	if err := n.out.Decode(&n.hello); err != nil {
		t.Fatalf("start of the node: %v\n%s", err, n.log.head())
	}
	return n
}

// report asks the node for a report. With collect the node first gives back its
// garbage.
func (n *node) report(collect bool) report {
	n.t.Helper()
	url := "http://" + n.Control
	if collect {
		url += "?collect"
	}
	var r report
	response, err := http.Get(url)
	if err == nil {
		err = json.NewDecoder(response.Body).Decode(&r)
		response.Body.Close()
	}
	if err != nil {
		n.t.Fatalf("report of the node: %v\n%s", err, n.log.head())
	}
	return r
}

func (n *node) memory() int64 { return servertest.ResidentMemory(n.t, n.cmd.Process.Pid) }
func (n *node) cpu() time.Duration {
	return servertest.CPUTime(n.t, n.cmd.Process.Pid)
}

// redisInfo returns a number from Redis' INFO.
func (n *node) redisInfo(name string) (value int64) {
	n.t.Helper()
	info, err := n.rdb.Info(context.Background()).Result()
	if err != nil {
		n.t.Error(err)
	}
	if _, rest, ok := strings.Cut(info, "\n"+name+":"); ok {
		fmt.Sscan(rest, &value)
	}
	return value
}

// A logCounter counts the lines that a node logs, and keeps some of each kind.
type logCounter struct {
	mu    sync.Mutex
	lines int64
	bytes int64
	kinds map[string]int
	kept  []byte
}

func (l *logCounter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines += int64(bytes.Count(p, []byte("\n")))
	l.bytes += int64(len(p))
	if l.kinds == nil {
		l.kinds = make(map[string]int)
	}
	for line := range bytes.Lines(p) {
		_, message, ok := bytes.Cut(line, []byte(" msg="))
		if !ok { // a line of net/http: the text is behind the date
			message = line[min(len(line), 20):]
		}
		kind := string(message[:min(len(message), 30)])
		if l.kinds[kind]++; l.kinds[kind] <= 3 {
			l.kept = append(append(l.kept, line[:min(len(line), 300)]...), '\n')
		}
	}
	return len(p), nil
}

func (l *logCounter) count() (lines, bytes int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lines, l.bytes
}

func (l *logCounter) head() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.kept)
}
