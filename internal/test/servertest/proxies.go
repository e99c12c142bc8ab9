package servertest

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Nginx starts an nginx, with http inside the http block of its configuration,
// which must listen on addr. It is a single process, so that no worker outlives it.
func Nginx(t testing.TB, addr, http string) *Server {
	t.Helper()
	dir := t.TempDir()
	conf := fmt.Sprintf("daemon off; master_process off; pid %[1]s/pid; error_log stderr;\nevents { worker_connections 4096; }\nhttp {\naccess_log off;\n", dir)
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		conf += fmt.Sprintf("%s_temp_path %s/%[1]s;\n", kind, dir)
	}
	file := writeConfig(t, dir, conf+http+"}\n")
	return Start(t, Command{
		Program: "nginx", Package: "nginx", Args: []string{"-c", file, "-e", "stderr"},
		Addr: addr, Ready: func() error { return Dial(addr) }, Patience: 30 * time.Second,
	})
}

// HAProxy starts a HAProxy with the configuration conf, which must listen on addr.
func HAProxy(t testing.TB, addr, conf string) *Server {
	t.Helper()
	return Start(t, Command{
		Program: "haproxy", Package: "haproxy", Args: []string{"-f", writeConfig(t, t.TempDir(), conf)},
		Addr: addr, Ready: func() error { return Dial(addr) }, Patience: 30 * time.Second,
	})
}

func writeConfig(t testing.TB, dir, text string) string {
	t.Helper()
	file := filepath.Join(dir, "proxy.conf")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
