package servertest

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"
)

// NATS starts a nats-server, with core NATS only unless args say more. To give it a
// configuration file, pass "-c" and its path.
func NATS(t testing.TB, args ...string) *Server {
	t.Helper()
	addr := FreeAddr(t)
	host, port, _ := net.SplitHostPort(addr)
	return Start(t, Command{
		Program:  "nats-server",
		Package:  "nats-server",
		Args:     append([]string{"--addr", host, "--port", port}, args...),
		Addr:     addr,
		Ready:    func() error { return greets(addr) },
		Patience: 20 * time.Second,
	})
}

// greets returns nil if there is a NATS server at addr. A NATS server speaks first.
func greets(addr string) error {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Second))
	line, err := bufio.NewReader(c).ReadString('\n')
	if err == nil && !strings.HasPrefix(line, "INFO ") {
		err = fmt.Errorf("%s greets with %q, not with INFO", addr, line)
	}
	return err
}
