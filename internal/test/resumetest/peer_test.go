package resumetest_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/heraldgo/herald/internal/test/load"
	"github.com/heraldgo/herald/internal/test/netproxy"
	"github.com/heraldgo/herald/internal/test/servertest"
)

// A peer is the test's end of a node's process.
type peer struct {
	t       *testing.T
	proxy   *netproxy.Proxy // to Redis, unless there are Sentinels
	cmd     *exec.Cmd
	stdin   io.WriteCloser
	log     servertest.Buffer
	hello   chan report
	answers chan string   // one for each line of stdin
	ended   chan struct{} // closed when the process has ended
	url     string
	node    string // the Hub's id

	asking sync.Mutex // held while a line waits for its answer

	mu      sync.Mutex
	records map[string][]load.Record // by sender
	gaps    []load.Gap
}

func startPeer(t *testing.T, s settings) *peer {
	t.Helper()
	env, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{
		t: t, cmd: exec.Command(os.Args[0]),
		hello: make(chan report, 1), answers: make(chan string, 1), ended: make(chan struct{}),
		records: make(map[string][]load.Record),
	}
	p.cmd.Env = append(os.Environ(), processEnv+"="+string(env), fmt.Sprint("GOMAXPROCS=", runtime.GOMAXPROCS(0)))
	p.cmd.Stderr = &p.log
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go p.read(stdout)
	t.Cleanup(p.end)
	select {
	case r := <-p.hello:
		p.url, p.node = r.URL, r.Node
	case <-p.ended:
		t.Fatalf("a node did not start:\n%s", p.log.String())
	}
	return p
}

// read takes the node's reports.
func (p *peer) read(stdout io.Reader) {
	defer close(p.ended)
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		var r report
		switch err := json.Unmarshal(lines.Bytes(), &r); {
		case err != nil: // it was killed in the middle of a line
		case r.URL != "":
			p.hello <- r
		case r.Answer != nil:
			p.answers <- *r.Answer
		default:
			p.note(r)
		}
	}
	p.cmd.Wait()
}

func (p *peer) note(r report) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r.Gap != nil {
		p.gaps = append(p.gaps, *r.Gap)
		return
	}
	p.records[r.Sender] = append(p.records[r.Sender], *r.Record)
}

// seen returns what the node has sent so far, and which gaps it has told.
func (p *peer) seen() (records map[string][]load.Record, gaps []load.Gap) {
	p.mu.Lock()
	defer p.mu.Unlock()
	records = make(map[string][]load.Record)
	for sender, list := range p.records {
		records[sender] = slices.Clone(list)
	}
	return records, slices.Clone(p.gaps)
}

// count returns how many Sends have returned nil, and how many an error.
func (p *peer) count() (sent, failed int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, list := range p.records {
		for _, r := range list {
			if r.Err == "" {
				sent++
			} else {
				failed++
			}
		}
	}
	return sent, failed
}

func (p *peer) sent() int {
	n, _ := p.count()
	return n
}

func (p *peer) failed() int {
	_, n := p.count()
	return n
}

var errEnded = errors.New("the node has ended")

// ask has the node do what a line says.
func (p *peer) ask(line string) error {
	p.t.Helper()
	p.asking.Lock()
	defer p.asking.Unlock()
	if _, err := io.WriteString(p.stdin, line+"\n"); err != nil {
		return errEnded
	}
	select {
	case answer := <-p.answers:
		if answer != "" {
			return errors.New(answer)
		}
		return nil
	case <-p.ended:
		return errEnded
	case <-time.After(2 * patience):
		p.t.Fatalf("%s: %q hangs", p.node, line)
		return nil
	}
}

func (p *peer) kill() {
	p.cmd.Process.Kill()
	<-p.ended
}

func (p *peer) pause()  { p.cmd.Process.Signal(syscall.SIGSTOP) }
func (p *peer) resume() { p.cmd.Process.Signal(syscall.SIGCONT) }

func (p *peer) end() {
	p.kill()
	if p.t.Failed() {
		p.t.Logf("log of %s:\n%s", p.node, p.log.String())
	}
}
