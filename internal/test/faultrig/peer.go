package faultrig

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

// A peer is the trial's handle on a node's process.
type peer struct {
	t       testing.TB
	bus     []*netproxy.Proxy // the proxies of its Bus
	keeps   bool              // it has a Retention
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

// start starts the process of a node, and waits until it serves.
func (p *peer) start(program string, s settings) {
	p.t.Helper()
	env, err := json.Marshal(s)
	if err != nil {
		p.t.Fatal(err)
	}
	p.keeps = s.Retention > 0
	p.hello, p.answers, p.ended = make(chan report, 1), make(chan string, 1), make(chan struct{})
	p.records = make(map[string][]load.Record)
	p.cmd = exec.Command(program)
	p.cmd.Env = append(os.Environ(), nodeEnv+"="+string(env), fmt.Sprint("GOMAXPROCS=", runtime.GOMAXPROCS(0)))
	p.cmd.Stderr = &p.log
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		p.t.Fatal(err)
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	go p.read(stdout)
	p.t.Cleanup(p.end)
	select {
	case r := <-p.hello:
		p.url, p.node = r.URL, r.Node
	case <-p.ended:
		p.t.Fatalf("a node did not start:\n%s", p.log.String())
	}
}

// read takes the node's reports.
func (p *peer) read(stdout io.Reader) {
	defer close(p.ended)
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		var r report
		switch err := json.Unmarshal(lines.Bytes(), &r); {
		case err != nil: // killed in the middle of a line
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

// seen returns what the node has sent so far, and the gaps that it has reported.
func (p *peer) seen() (records map[string][]load.Record, gaps []load.Gap) {
	p.mu.Lock()
	defer p.mu.Unlock()
	records = make(map[string][]load.Record)
	for sender, list := range p.records {
		records[sender] = slices.Clone(list)
	}
	return records, slices.Clone(p.gaps)
}

// count returns how many Sends have returned nil, and how many have failed.
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

var (
	errEnded = errors.New("the node has ended")
	errHangs = errors.New("the node does not answer")
)

// ask writes a line to the node, and returns its answer.
func (p *peer) ask(line string) error {
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
	case <-time.After(10 * patience): // a burst takes long
		return errHangs
	}
}

func (p *peer) kill() {
	p.cmd.Process.Kill()
	<-p.ended
}

// cut resets all connections of the node's Bus.
func (p *peer) cut() {
	for _, proxy := range p.bus {
		proxy.Cut()
	}
}

func (p *peer) blackhole(on bool) {
	for _, proxy := range p.bus {
		proxy.Blackhole(on)
	}
}

func (p *peer) pause()  { p.cmd.Process.Signal(syscall.SIGSTOP) }
func (p *peer) resume() { p.cmd.Process.Signal(syscall.SIGCONT) }

func (p *peer) end() {
	p.kill()
	if p.t.Failed() {
		p.t.Logf("log of %s:\n%s", p.node, p.log.String())
	}
}
