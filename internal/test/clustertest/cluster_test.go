// Package clustertest tests herald as a whole: hubs in processes of their own, on a
// real Redis, while everything between them fails in turn.
package clustertest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/test/netproxy"
	"github.com/heraldgo/herald/internal/test/redistest"
)

func TestMain(m *testing.M) {
	env := os.Getenv(nodeEnv)
	if env == "" {
		os.Exit(m.Run())
	}
	if err := runNode(env); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// hung is how long the tests wait for something without a time of its own. If it
// takes longer, it hangs.
const hung = 60 * time.Second

// A cluster is a Redis or a Sentinel set, with nodes, each behind proxies of its
// own.
type cluster struct {
	t        *testing.T
	settings settings
	redis    *redistest.Server    // nil if there is a Sentinel set
	set      *redistest.Sentinels // nil if there is one Redis
	rdb      *redis.Client        // a client that bypasses the proxies
	nodes    []*node
	devices  []*device
	users    int
	round    int // of fences and loads

	records map[string][]record // the records of all loads, by sender
}

// newCluster starts a Redis and n nodes.
func newCluster(t *testing.T, n int, s settings) *cluster {
	t.Helper()
	c := &cluster{t: t, settings: s, redis: redistest.Start(t), records: make(map[string][]record)}
	c.rdb = c.redis.Client()
	for i := range n {
		c.start(fmt.Sprint("node", i))
	}
	return c
}

// start starts one more node.
func (c *cluster) start(name string) *node {
	c.t.Helper()
	s := c.settings
	s.Name = name
	proxy := netproxy.Start(c.t, c.redis.Addr)
	s.Redis = proxy.Addr
	n := startNode(c.t, s)
	n.proxy = proxy
	c.nodes = append(c.nodes, n)
	return n
}

// A node is the test's handle on a node's process.
type node struct {
	hello
	t       *testing.T
	proxy   *netproxy.Proxy
	proxies map[string]*netproxy.Proxy // with Sentinels, by the server's address
	cmd     *exec.Cmd
	stdin   io.WriteCloser
	log     safeBuffer
	ended   chan struct{} // closed when the process has ended

	mu      sync.Mutex // guards the rest
	lastID  int
	pending map[int]chan<- answer
	gone    bool
}

// An answer is a response as the test reads it.
type answer struct {
	ID     int
	Error  string
	Result json.RawMessage
}

func startNode(t *testing.T, s settings) *node {
	t.Helper()
	env, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	n := &node{t: t, pending: make(map[int]chan<- answer), ended: make(chan struct{})}
	n.cmd = exec.Command(os.Args[0])
	n.cmd.Env = append(os.Environ(), nodeEnv+"="+string(env), fmt.Sprint("GOMAXPROCS=", runtime.GOMAXPROCS(0)))
	n.cmd.Stderr = &n.log
	stdin, err := n.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := n.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	n.stdin = stdin
	if err := n.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(stdout)
	line, err := lines.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &n.hello)
	}
	go n.read(lines)
	t.Cleanup(n.end)
	if err != nil {
		t.Fatalf("start of a node: %v\n%s", err, n.log.String())
	}
	return n
}

// read hands the responses to the callers that wait for them.
func (n *node) read(lines *bufio.Reader) {
	defer close(n.ended)
	for {
		line, err := lines.ReadBytes('\n')
		var a answer
		if err == nil {
			err = json.Unmarshal(line, &a)
		}
		n.mu.Lock()
		waiting := n.pending
		if err == nil {
			waiting = map[int]chan<- answer{a.ID: n.pending[a.ID]}
			delete(n.pending, a.ID)
		} else {
			n.gone = true
			a.Error = "node has ended"
		}
		n.mu.Unlock()
		for _, w := range waiting {
			w <- a // the channel holds one
		}
		if err != nil {
			n.cmd.Wait()
			return
		}
	}
}

// begin sends a request, and returns the channel of its answer.
func (n *node) begin(op string, args any) <-chan answer {
	done := make(chan answer, 1)
	raw, _ := json.Marshal(args)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.gone {
		done <- answer{Error: "node has ended"}
		return done
	}
	n.lastID++
	n.pending[n.lastID] = done
	line, _ := json.Marshal(request{n.lastID, op, raw})
	n.stdin.Write(append(line, '\n'))
	return done
}

// finish waits for the answer to a request.
func (n *node) finish(op string, done <-chan answer, result any) error {
	n.t.Helper()
	select {
	case a := <-done:
		if a.Error != "" {
			return errors.New(a.Error)
		}
		if result != nil {
			return json.Unmarshal(a.Result, result)
		}
		return nil
	case <-time.After(hung):
		n.t.Fatalf("%s: %s hangs", n.Node, op)
		return nil
	}
}

// ask sends a request and waits for the answer. result may be nil.
func (n *node) ask(op string, args, result any) error {
	n.t.Helper()
	return n.finish(op, n.begin(op, args), result)
}

// mustAsk is ask for requests that must not fail.
func (n *node) mustAsk(op string, args, result any) {
	n.t.Helper()
	if err := n.ask(op, args, result); err != nil {
		n.t.Fatalf("%s: %s: %v", n.Node, op, err)
	}
}

func (n *node) health() error { n.t.Helper(); return n.ask("health", nil, nil) }

func (n *node) stats() (s herald.Stats) {
	n.t.Helper()
	n.mustAsk("stats", nil, &s)
	return s
}

func (n *node) seen() (s seen) {
	n.t.Helper()
	n.mustAsk("seen", nil, &s)
	return s
}

// kill ends the process with SIGKILL and waits for it.
func (n *node) kill() {
	n.cmd.Process.Kill()
	<-n.ended
}

func (n *node) pause()  { n.cmd.Process.Signal(syscall.SIGSTOP) }
func (n *node) resume() { n.cmd.Process.Signal(syscall.SIGCONT) }
func (n *node) end() {
	n.kill()
	if n.t.Failed() {
		n.t.Logf("log of %s:\n%s", n.Node, n.log.String())
	}
}

// shutdown shuts all nodes down in order. Redis then holds nothing of them.
func (c *cluster) shutdown() {
	c.t.Helper()
	var done []<-chan answer
	for _, n := range c.nodes {
		done = append(done, n.begin("shutdown", nil))
	}
	for i, n := range c.nodes {
		if err := n.finish("shutdown", done[i], nil); err != nil {
			c.t.Errorf("%s: shutdown: %v", n.Node, err)
		}
	}
	keys, err := c.keys()
	if err != nil || len(keys) > 3 { // the last generation, the clock, and the users who are about to go offline
		c.t.Errorf("keys %q are left after the shutdown of all nodes, %v", keys, err)
	}
}

// await polls until ok returns nil.
func await(t *testing.T, what string, ok func() error) {
	t.Helper()
	deadline := time.Now().Add(hung)
	for {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: hangs: %v", what, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// awaitHealthy waits until all nodes are healthy.
func (c *cluster) awaitHealthy() {
	c.t.Helper()
	await(c.t, "health of all nodes", func() error {
		for _, n := range c.nodes {
			if err := n.health(); err != nil {
				return fmt.Errorf("%s: %w", n.Node, err)
			}
		}
		return nil
	})
}

// awaitUnhealthy waits until each of the nodes is unhealthy.
func awaitUnhealthy(t *testing.T, nodes ...*node) {
	t.Helper()
	for _, n := range nodes {
		await(t, "red health of "+n.Node, func() error {
			if n.health() == nil {
				return errors.New("still green")
			}
			return nil
		})
	}
}

// within returns a context that ends after hung.
func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), hung)
	t.Cleanup(cancel)
	return ctx
}

// A safeBuffer is a bytes.Buffer that may be read while it is written.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
