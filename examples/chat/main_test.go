package main

import (
	"bufio"
	"bytes"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// The test binary is the program, too.
func TestMain(m *testing.M) {
	if os.Getenv("CHAT_MAIN") == "1" {
		main()
		return
	}
	os.Exit(m.Run())
}

func program(t *testing.T, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), "CHAT_MAIN=1")
	return cmd
}

// Each fault is one line on stderr and exit 1.
func TestFaults(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, c := range []struct{ args, want string }{
		{"-addr " + taken.Addr().String(), "address already in use"},
		{"-addr 127.0.0.1:0 -nodes 0", "-nodes 0: must be 1 to 64"},
		{"-nodes x", `invalid value "x" for flag -nodes`},
		{"-what", "flag provided but not defined: -what"},
		{"now", `argument "now": there must be flags only`},
		{"-addr 127.0.0.1:0 -redis ://", `-redis "://": `},
		{"-addr 127.0.0.1:0 -redis redis://127.0.0.1:1", "connection refused"},
	} {
		cmd := program(t, strings.Fields(c.args)...)
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		cmd.Run()
		said := stderr.String()
		if cmd.ProcessState.ExitCode() != 1 || strings.Count(said, "\n") != 1 || !strings.Contains(said, c.want) || stdout.Len() > 0 {
			t.Errorf("%s: exit %d, %q, %q: want exit 1 and one line with %q", c.args, cmd.ProcessState.ExitCode(), stdout.String(), said, c.want)
		}
	}
}

func TestHelp(t *testing.T) {
	out, err := program(t, "-h").Output()
	if err != nil || !bytes.Contains(out, []byte("-redis")) {
		t.Errorf("%v: %s", err, out)
	}
}

// Both signals end it gracefully, with exit 0 and nothing to complain about.
func TestSignals(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		cmd := program(t, "-addr", "127.0.0.1:0", "-nodes", "2")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var lines []string
		for in := bufio.NewScanner(stdout); len(lines) < 3 && in.Scan(); {
			lines = append(lines, in.Text())
		}
		cmd.Process.Signal(sig)
		if err := cmd.Wait(); err != nil || stderr.Len() > 0 {
			t.Errorf("%v: %v: %s", sig, err, stderr.String())
		}
		if len(lines) != 3 || !strings.HasPrefix(lines[0], "front door http://127.0.0.1:") || !strings.HasPrefix(lines[2], "node n2 http://127.0.0.1:") {
			t.Errorf("printed %q", lines)
		}
	}
}
