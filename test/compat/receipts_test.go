package compat

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/lxzan/gws"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/test/servertest"
)

// busy is how long a receipt is waited for that cannot come.
const busy = 300 * time.Millisecond

// deliver reports whether a receipt comes from the one client of the user.
func (s *station) deliver(t *testing.T, user, text string, within time.Duration) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	d, err := s.Deliver(ctx, herald.User(user), herald.Text(text))
	if errors.Is(err, context.DeadlineExceeded) { // on a machine that is busy too
		return false
	}
	if err != nil || len(d.Received)+len(d.Missed) != 1 {
		t.Fatalf("%q: %+v, %v", text, d, err)
	}
	return len(d.Received) == 1
}

// A library that the application reads by gives a receipt when the application comes
// back for more: it has taken the message by then.
func TestReceipts(t *testing.T) {
	eachClient(t, nil, func(t *testing.T, s *station, dial func(string, ...string) (*client, int)) {
		c, _ := dial("?user=42")
		c.settle(t, s, "42")
		patience := patience
		if c.terse {
			patience = busy
		}
		if got := s.deliver(t, "42", "hello", patience); got == c.terse {
			t.Fatalf("a receipt came: %v", got)
		}
		if e := c.expect(t, received); e.data != "hello" {
			t.Fatalf("got %v", e)
		}
		const more = 2 * events
		for range more {
			if err := s.Send(t.Context(), herald.User("42"), herald.Text("more")); err != nil {
				t.Fatal(err)
			}
		}
		if s.deliver(t, "42", "while busy", busy) {
			t.Error("a receipt came before the application took the message")
		}
		for range more + 1 {
			c.expect(t, received)
		}
		if got := s.deliver(t, "42", "again", patience); got == c.terse {
			t.Errorf("a receipt came: %v", got)
		}
	})
}

// gwsAnswers answers pings as RFC 6455 section 5.5.3 asks.
type gwsAnswers struct{ gwsEvents }

func (g gwsAnswers) OnPing(c *gws.Conn, data []byte) { c.WritePong(data) }

func TestReceiptsFromGws(t *testing.T) {
	s := newStation(t, nil)
	srv := httptest.NewServer(s)
	defer srv.Close()
	conn, _, err := gws.NewClient(gwsAnswers{gwsEvents{events: make(chan event, events)}}, &gws.ClientOption{Addr: wsURL(srv)})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.NetConn().Close()
	go conn.ReadLoop()
	next(t, s.connected, "connection")
	if !s.deliver(t, "42", "hello", patience) {
		t.Error("no receipt came")
	}
}

func TestReceiptsFromCoder(t *testing.T) {
	s := newStation(t, nil)
	srv := httptest.NewServer(s)
	defer srv.Close()
	ws, _, err := websocket.Dial(t.Context(), wsURL(srv), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ws.CloseNow()
	if s.deliver(t, "42", "while busy", busy) {
		t.Error("a receipt came, and nobody reads")
	}
	var reading sync.WaitGroup
	reading.Go(func() {
		for {
			if _, _, err := ws.Read(t.Context()); err != nil {
				return
			}
		}
	})
	if !s.deliver(t, "42", "hello", patience) {
		t.Error("no receipt came")
	}
	ws.CloseNow()
	reading.Wait()
}

func wsURL(s *httptest.Server) string { return "ws" + strings.TrimPrefix(s.URL, "http") + "/?user=42" }

// Programs that print what they get. After "block" they stand still, the library with
// them, until there is a line on their standard input.
var programs = map[string]struct {
	commands   [][]string // any of which will do; the last argument is a program
	check, run string
	missing    func(testing.TB) // skips or fails the test if none will
	first      bool             // the program gets a message before the library reads what is behind it
	await      bool             // after "await" the program alone stands still
}{
	"Node": {
		commands: [][]string{{"node", "--experimental-websocket", "-e"}, {"node", "-e"}},
		check:    `process.exit(typeof WebSocket === "function" ? 0 : 1)`,
		missing: func(t testing.TB) { // as of Debian 12, whose Node is 18: no package of it has one
			t.Skip("NOT RUN: Node has no WebSocket of its own here (20.10 is the first that has one), so nobody tried whether it gives receipts")
		},
		run: `const ws = new WebSocket(process.argv[1])
			ws.onmessage = e => {
				require("fs").writeSync(1, e.data + "\n")
				if (e.data === "block") require("fs").readSync(0, Buffer.alloc(1))
			}
			ws.onclose = () => process.exit()`,
		first: true,
	},
	"Python": {
		commands: [][]string{{"python3", "-c"}, {"/usr/bin/python3", "-c"}},
		check:    "import websockets",
		missing:  func(t testing.TB) { servertest.Missing(t, "websockets for python3", "python3-websockets") },
		run: `
import asyncio, sys, websockets
async def main():
    async with websockets.connect(sys.argv[1]) as ws:
        async for text in ws:
            print(text, flush=True)
            if text == "block":
                sys.stdin.readline()
            if text == "await":
                await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
asyncio.run(main())`,
		await: true,
	},
}

// A library that reads by itself gives a receipt though the application is busy,
// unless this holds up the library too.
func TestReceiptsFromPrograms(t *testing.T) {
	for name, p := range programs {
		t.Run(name, func(t *testing.T) {
			i := slices.IndexFunc(p.commands, func(c []string) bool { return command(c, p.check).Run() == nil })
			if i < 0 {
				p.missing(t)
			}
			s := newStation(t, nil)
			srv := httptest.NewServer(s)
			defer srv.Close()
			lines, unblock := start(t, command(p.commands[i], p.run, wsURL(srv)))
			next(t, s.connected, "connection")
			say := func(text string, within time.Duration, want bool) {
				t.Helper()
				if got := s.deliver(t, "42", text, within); got != want {
					t.Errorf("%q: a receipt came: %v", text, got)
				}
			}
			hear := func(want string) {
				t.Helper()
				if got := next(t, lines, want); got != want {
					t.Fatalf("it printed %q, want %q", got, want)
				}
			}
			say("hello", patience, true)
			hear("hello")
			if p.await {
				say("await", patience, true)
				hear("await")
				say("behind", patience, true)
				unblock()
				hear("behind")
			}
			if p.first {
				say("block", busy, false)
			} else {
				say("block", patience, true)
			}
			hear("block")
			say("while it stands still", busy, false)
			unblock()
			hear("while it stands still")
			say("again", patience, true)
			hear("again")
		})
	}
}

func command(command []string, args ...string) *exec.Cmd {
	return exec.Command(command[0], slices.Concat(command[1:], args)...)
}

// start starts a command, and returns the lines that it prints and what writes it one.
func start(t *testing.T, cmd *exec.Cmd) (lines <-chan string, unblock func()) {
	t.Helper()
	cmd.Env = append(os.Environ(), "NO_PROXY=127.0.0.1")
	cmd.Stderr = t.Output()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	printed := make(chan string, 100)
	var reading sync.WaitGroup
	reading.Go(func() {
		for scan := bufio.NewScanner(out); scan.Scan(); {
			printed <- scan.Text()
		}
	})
	t.Cleanup(func() {
		cmd.Process.Kill()
		reading.Wait()
		cmd.Wait()
	})
	return printed, func() {
		if _, err := io.WriteString(in, "\n"); err != nil {
			t.Fatal(err)
		}
	}
}
