package servertest

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Mosquitto starts an MQTT broker that is stopped when the test ends. It is on a
// loopback port, open to everyone, and keeps nothing on disk. The lines conf are
// added to its configuration, and override ours
// (https://mosquitto.org/man/mosquitto-conf-5.html).
func Mosquitto(t testing.TB, conf ...string) *Server {
	t.Helper()
	addr := FreeAddr(t)
	host, port, _ := net.SplitHostPort(addr)
	lines := append([]string{
		"user root", // only matters if root starts it
		"persistence false",
		"log_dest stderr",
		"listener " + port + " " + host,
		"allow_anonymous true",
	}, conf...)
	file := filepath.Join(t.TempDir(), "mosquitto.conf")
	if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return Start(t, Command{
		Program:  "mosquitto",
		Package:  "mosquitto",
		Args:     []string{"-c", file},
		Addr:     addr,
		Ready:    func() error { return Dial(addr) },
		Patience: 20 * time.Second,
	})
}
