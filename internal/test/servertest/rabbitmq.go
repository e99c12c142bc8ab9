package servertest

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// rabbitBin is the directory in which Debian has RabbitMQ's own scripts. The
// scripts of the same names in $PATH are wrappers that change to another user.
const rabbitBin = "/usr/lib/rabbitmq/bin"

// RabbitMQ starts a RabbitMQ without plugins, which takes some ten seconds. Its
// user is guest with the password guest. Its data survives Kill and Restart, and is
// removed when the test ends.
func RabbitMQ(t testing.TB) *Server {
	t.Helper()
	program := rabbitProgram("rabbitmq-server")
	if Find(program) == "" {
		Missing(t, "rabbitmq-server", "rabbitmq-server")
	}
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	epmd := startEpmd(t)
	_, epmdPort, _ := net.SplitHostPort(epmd.Addr)
	_, distPort, _ := net.SplitHostPort(FreeAddr(t))
	addr := FreeAddr(t)
	config := fmt.Sprintf("listeners.tcp.1 = %s\nnum_acceptors.tcp = 2\ndisk_free_limit.absolute = 1MB\nlog.console = true\nlog.file = false\n", addr)
	return Start(t, Command{
		Program: program,
		Package: "rabbitmq-server",
		// With ALLOW_INPUT the script becomes the Erlang machine instead of its
		// parent, so that Kill and Pause affect that.
		Args: []string{"-noinput"},
		Env: []string{
			"RABBITMQ_ALLOW_INPUT=true",
			"HOME=" + dir,
			"RABBITMQ_NODENAME=herald@localhost",
			"RABBITMQ_DIST_PORT=" + distPort,
			"RABBITMQ_MNESIA_BASE=" + filepath.Join(dir, "data"),
			"RABBITMQ_LOG_BASE=" + filepath.Join(dir, "log"),
			"RABBITMQ_PID_FILE=" + filepath.Join(dir, "pid"),
			"RABBITMQ_CONFIG_FILE=" + write("rabbitmq.conf", config),
			"RABBITMQ_ENABLED_PLUGINS_FILE=" + write("plugins", "[]."),
			"RABBITMQ_CONF_ENV_FILE=" + os.DevNull,
			"ERL_EPMD_PORT=" + epmdPort,
			"ERL_EPMD_ADDRESS=127.0.0.1",
		},
		Addr:     addr,
		Ready:    func() error { return greet(addr) },
		Patience: 3 * time.Minute,
	})
}

// startEpmd starts the name server of Erlang machines. Without one, RabbitMQ would
// start one that outlives it.
func startEpmd(t testing.TB) *Server {
	t.Helper()
	addr := FreeAddr(t)
	_, port, _ := net.SplitHostPort(addr)
	return Start(t, Command{
		Program:  "epmd",
		Package:  "erlang-base",
		Args:     []string{"-port", port, "-address", "127.0.0.1"},
		Addr:     addr,
		Ready:    func() error { return Dial(addr) },
		Patience: 20 * time.Second,
	})
}

// rabbitProgram returns the path of one of RabbitMQ's own scripts, or only its name
// if Debian's directory does not have it.
func rabbitProgram(name string) string {
	path := filepath.Join(rabbitBin, name)
	if _, err := os.Stat(path); err != nil {
		return name
	}
	return path
}

// greet returns nil if an AMQP server at addr sends its first frame. RabbitMQ
// listens before it can.
func greet(addr string) error {
	c, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.Write([]byte("AMQP\x00\x00\x09\x01")); err != nil {
		return err
	}
	hello := make([]byte, 11) // frame header, class, method
	if _, err := c.Read(hello); err != nil {
		return err
	}
	if !bytes.Equal(hello[7:], []byte{0, 10, 0, 10}) {
		return fmt.Errorf("not connection.start: %x", hello)
	}
	return nil
}

// RabbitMQCtl runs rabbitmqctl for a server that RabbitMQ has started, and returns
// its output. That takes some seconds.
func (s *Server) RabbitMQCtl(args ...string) string {
	s.t.Helper()
	cmd := exec.Command(rabbitProgram("rabbitmqctl"), append([]string{"--quiet"}, args...)...)
	cmd.Env = append(os.Environ(), s.command.Env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		s.t.Fatalf("rabbitmqctl %q: %v\n%s", args, err, out)
	}
	return string(out)
}
