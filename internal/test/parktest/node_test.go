//go:build linux

package parktest

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/netpoll"
	"github.com/heraldgo/herald/internal/test/servertest"
	"github.com/heraldgo/herald/internal/test/wsraw"
)

// nodeEnv has the time after which a Conn is parked. If it is set, the process runs
// a node.
const nodeEnv = "HERALD_PARKTEST_NODE"

func TestMain(m *testing.M) {
	if quiet := os.Getenv(nodeEnv); quiet != "" {
		if err := runNode(quiet); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// runNode serves a Hub that sends each message back. It prints its address, and
// answers each line on stdin with the number of its goroutines.
func runNode(quiet string) (err error) {
	if netpoll.Quiet, err = time.ParseDuration(quiet); err != nil {
		return err
	}
	hub, err := herald.New(herald.Config{
		Authenticate: func(r *http.Request) (herald.Identity, error) {
			return herald.Identity{User: r.URL.Query().Get("user")}, nil
		},
		OnMessage:   func(_ context.Context, c *herald.Conn, m herald.Message) { c.Send(m) },
		MessageRate: -1, MaxHandshakes: -1, HandshakeRatePerAddr: -1, PingInterval: -1, MessageTimeout: patience,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go http.Serve(l, hub)
	time.AfterFunc(5*patience, func() { os.Exit(1) }) // strace may be killed, and leave the node behind
	fmt.Println(l.Addr())
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		fmt.Println(runtime.NumGoroutine())
	}
	return nil
}

// A node is a Hub in a process of its own, whose system calls strace records.
type node struct {
	t      *testing.T
	addr   string
	quiet  time.Duration
	users  int    // the number that have connected
	idle   int    // the number of goroutines without connections
	trace  string // the file that strace writes
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	stderr bytes.Buffer
}

// startNode starts a node. calls says which system calls are traced, as for
// strace's -e trace.
func startNode(t *testing.T, quiet time.Duration, calls string) *node {
	t.Helper()
	n := &node{t: t, quiet: quiet, trace: filepath.Join(t.TempDir(), "trace")}
	args := []string{"-f", "-y", "--seccomp-bpf", "-e", "trace=" + calls, "-o", n.trace}
	strace := servertest.Find("strace")
	if strace == "" {
		servertest.Missing(t, "strace", "strace")
	}
	if out, err := exec.Command(strace, append(args, "true")...).CombinedOutput(); err != nil {
		t.Skipf("MISSING: strace may not trace here, as in some containers: %v: %s", err, out)
	}
	n.cmd = exec.Command(strace, append(args, os.Args[0])...)
	n.cmd.Env = append(os.Environ(), nodeEnv+"="+quiet.String(), fmt.Sprint("GOMAXPROCS=", runtime.GOMAXPROCS(0)))
	n.cmd.Stderr = &n.stderr
	in, err := n.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := n.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := n.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	n.in, n.out = in, bufio.NewReader(out)
	t.Cleanup(n.stop)
	n.addr = n.line()
	n.idle = n.mark("begin") + 1 // one more for the poller
	return n
}

// stop ends the node, and waits until strace has written everything.
func (n *node) stop() {
	n.in.Close()
	n.cmd.Wait()
}

func (n *node) line() string {
	n.t.Helper()
	s, err := n.out.ReadString('\n')
	if err != nil {
		n.in.Close()
		n.cmd.Wait()
		n.t.Fatalf("the node under strace: %v\n%s", err, n.stderr.String())
	}
	return strings.TrimSpace(s)
}

// mark puts a mark into the trace, by having the node read a line. It returns the
// number of the node's goroutines.
func (n *node) mark(name string) (goroutines int) {
	n.t.Helper()
	fmt.Fprintln(n.in, name)
	if _, err := fmt.Sscan(n.line(), &goroutines); err != nil {
		n.t.Fatal(err)
	}
	return goroutines
}

// parked waits until no connection has a goroutine. It allows for three goroutines
// of the Hub that come and go.
func (n *node) parked() {
	n.t.Helper()
	await(n.t, "all connections parked", func() bool { return n.mark("look") <= n.idle+3 })
}

// connect opens many connections.
func (n *node) connect(many int) (conns []*wsraw.Conn) {
	n.t.Helper()
	for range many {
		raw, err := net.Dial("tcp", n.addr)
		if err != nil {
			n.t.Fatal(err)
		}
		n.t.Cleanup(func() { raw.Close() })
		n.users++
		c, _, err := wsraw.Handshake(raw, fmt.Sprint("/?user=u", n.users), nil)
		if err != nil {
			n.t.Fatal(err)
		}
		conns = append(conns, c)
	}
	return conns
}

// A count has the numbers of system calls in a part of the trace.
type count struct {
	calls   int // all traced calls
	reads   int // those that read from sockets
	nothing int // reads that found nothing
}

// call matches the beginning of a line about a call: the thread, the name and the
// first argument.
var call = regexp.MustCompile(`^(\d+) +(\w+)\(([^,)]*)`)

// counts ends the node, and returns its calls between each mark and the next.
func (n *node) counts() map[string]count {
	n.t.Helper()
	n.stop()
	trace, err := os.ReadFile(n.trace)
	if err != nil {
		n.t.Fatal(err)
	}
	counts := make(map[string]count)
	name, reading := "", make(map[string]bool) // by thread: whether its last call reads from a socket
	for line := range strings.Lines(string(trace)) {
		now := counts[name]
		thread, _, _ := strings.Cut(line, " ")
		if c := call.FindStringSubmatch(line); c != nil {
			reading[thread] = strings.Contains(c[3], "<socket:") && (c[2] == "read" || c[2] == "recvfrom")
			now.calls++
			if reading[thread] {
				now.reads++
			}
		}
		if reading[thread] && strings.Contains(line, "EAGAIN") {
			now.nothing++
		}
		counts[name] = now
		if _, mark, ok := strings.Cut(line, `"mark `); ok {
			name, _, _ = strings.Cut(mark, `\n`)
		}
	}
	return counts
}
