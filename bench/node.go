package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
)

// A node is a child process: one server of a contestant.
type node struct {
	addr string
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *json.Decoder
}

// environment variables that make this program a node.
const (
	envKind  = "BENCH_KIND"
	envRedis = "BENCH_REDIS"
	envTLS   = "BENCH_TLS"
)

func startNode(kind, redisAddr string, useTLS bool) (*node, error) {
	var cmd *exec.Cmd
	if kind == "socket.io" || kind == "socket.io-deflate" {
		cmd = exec.Command("node", "--expose-gc", "server.js")
		cmd.Dir = "socketio"
	} else {
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		cmd = exec.Command(self)
	}
	cmd.Env = append(os.Environ(), envKind+"="+kind, envRedis+"="+redisAddr)
	if useTLS {
		cmd.Env = append(cmd.Env, envTLS+"=1")
	}
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	n := &node{cmd: cmd, in: in, out: json.NewDecoder(bufio.NewReader(out))}
	var first answer
	if err := n.out.Decode(&first); err != nil {
		n.stop()
		return nil, fmt.Errorf("%s did not start: %w", kind, err)
	}
	n.addr = first.Addr
	return n, nil
}

// do sends a command and waits for the answer.
func (n *node) do(c command) (answer, error) {
	var a answer
	if err := json.NewEncoder(n.in).Encode(c); err != nil {
		return a, err
	}
	if err := n.out.Decode(&a); err != nil {
		return a, fmt.Errorf("%s: no answer: %w", c.Do, err)
	}
	if a.Error != "" {
		return a, errors.New(a.Error)
	}
	return a, nil
}

func (n *node) stopped() bool { return n.cmd.ProcessState != nil }

// stop kills the process and waits for it.
func (n *node) stop() {
	n.in.Close()
	n.cmd.Process.Kill()
	n.cmd.Wait()
}
