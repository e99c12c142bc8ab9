package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/heraldgo/herald/internal/test/redistest"
	"github.com/heraldgo/herald/internal/test/servertest"
)

// patience is how long a test waits for what must come.
const patience = 60 * time.Second

// isNode is set in the environment of a node, which is this program too.
const isNode = "LOADBALANCER_TEST_NODE"

func TestMain(m *testing.M) {
	if os.Getenv(isNode) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// proxies are those that have a configuration here.
var proxies = map[string]struct {
	file   string
	start  func(t testing.TB, addr, conf string) *servertest.Server
	listen string // what the file has for the proxy's own address
	checks bool   // the proxy asks the nodes for their health
}{
	"nginx":   {"nginx.conf", servertest.Nginx, "listen 443 ssl;", false},
	"HAProxy": {"haproxy.cfg", servertest.HAProxy, "bind :443 ssl", true},
}

// A site is three nodes in processes of their own behind a proxy, with one Redis.
type site struct {
	t         *testing.T
	redis     *redistest.Server
	retention time.Duration
	addr      string // the proxy's
	nodes     []*servertest.Server
	roots     *x509.CertPool
	up        string // where the proxy says whether it takes all nodes to be up; empty if it does not ask them
}

func newSite(t *testing.T, proxy string, retention time.Duration) *site {
	s := &site{t: t, redis: redistest.Start(t), retention: retention, addr: servertest.FreeAddr(t)}
	for range 3 {
		s.nodes = append(s.nodes, s.startNode())
	}
	p := proxies[proxy]
	conf := s.conf(p.file, p.listen)
	if p.checks {
		s.up = servertest.FreeAddr(t)
		conf += fmt.Sprintf("\nfrontend test\n    mode http\n    timeout client 60s\n    bind %s\n"+
			"    monitor-uri /up\n    monitor fail if { nbsrv(herald) lt 3 }\n", s.up)
	}
	p.start(t, s.addr, conf)
	s.awaitUp()
	t.Cleanup(func() {
		if t.Failed() {
			for i, n := range s.nodes {
				t.Logf("node %d:\n%s", i+1, n.Log())
			}
		}
	})
	return s
}

func (s *site) startNode() *servertest.Server {
	s.t.Helper()
	self, err := os.Executable()
	if err != nil {
		s.t.Fatal(err)
	}
	addr := servertest.FreeAddr(s.t)
	return servertest.Start(s.t, servertest.Command{
		Program: self, Addr: addr, Patience: patience,
		Env: []string{isNode + "=1", "ADDR=" + addr, "REDIS=" + s.redis.Addr, "RETENTION=" + s.retention.String(), "GRACE=4s"},
		Ready: func() error {
			return get("http://" + addr + "/healthz")
		},
	})
}

// conf returns the proxy's file with the addresses of the test.
func (s *site) conf(file, listen string) string {
	s.t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		s.t.Fatal(err)
	}
	conf := string(b)
	replace := func(old, new string) {
		if strings.Count(conf, old) != 1 {
			s.t.Fatalf("%s has not one %q", file, old)
		}
		conf = strings.Replace(conf, old, new, 1)
	}
	replace(listen, strings.NewReplacer(":443", s.addr, "443", s.addr).Replace(listen))
	for i, n := range s.nodes {
		replace(fmt.Sprintf("10.18.0.1%d:8080", i+1), n.Addr)
	}
	return strings.ReplaceAll(conf, "/etc/herald/tls.pem", s.certificate())
}

// certificate makes one for this machine, and returns its file, which has the key too.
func (s *site) certificate() string {
	s.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		s.t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		s.t.Fatal(err)
	}
	s.roots = x509.NewCertPool()
	s.roots.AddCert(parsed)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		s.t.Fatal(err)
	}
	both := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	both = append(both, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})...)
	file := filepath.Join(s.t.TempDir(), "tls.pem")
	if err := os.WriteFile(file, both, 0o600); err != nil {
		s.t.Fatal(err)
	}
	return file
}

// web returns a client that trusts the proxy.
func (s *site) web() *http.Client {
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.roots}}}
}

// awaitUp waits until the proxy takes all nodes to be up, if it asks them.
func (s *site) awaitUp() {
	s.t.Helper()
	if s.up == "" {
		return
	}
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if err = get("http://" + s.up + "/up"); err == nil {
			return
		}
	}
	s.t.Fatalf("the proxy does not take all nodes to be up: %v", err)
}

// troubled reports whether a node's log tells of trouble: on a machine that stands still
// for seconds, nodes take each other to be away, and connections do not end in time.
func (s *site) troubled() bool {
	for _, n := range s.nodes {
		for _, sign := range []string{" WARN ", " ERROR ", "were cut"} {
			if strings.Contains(n.Log(), sign) {
				return true
			}
		}
	}
	return false
}

// get returns nil if the answer is 200.
func get(url string) error {
	response, err := http.Get(url)
	if err != nil {
		return err
	}
	response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, response.Status)
	}
	return nil
}
