package natsbus_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/bus/natsbus"
	"github.com/heraldgo/herald/internal/test/servertest"
)

func TestNewInvalid(t *testing.T) {
	for _, test := range []struct {
		url, names string
		options    natsbus.Options
	}{
		{"", "url", natsbus.Options{}},
		{" , ", "url", natsbus.Options{}},
		{"nats://user:secret@host:port", "url: server 1", natsbus.Options{}},
		{"nats://localhost, nats://user:sec\x01ret@host", "url: server 2", natsbus.Options{}},
		{"nats://user:secret%zz@host", "url: server 1", natsbus.Options{}},
		{"http://user:secret@host", "scheme", natsbus.Options{}},
		{"ws://user:secret@host", "WebSocket", natsbus.Options{}},
		{"nats://:4222", "host", natsbus.Options{}},
		{"localhost", "Prefix", natsbus.Options{Prefix: "a..b"}},
		{"localhost", "Prefix", natsbus.Options{Prefix: "a.*"}},
		{"localhost", "Prefix", natsbus.Options{Prefix: "a b"}},
		{"localhost", "Prefix", natsbus.Options{Prefix: "$SYS"}},
		{"localhost", "Prefix", natsbus.Options{Prefix: strings.Repeat("x", 201)}},
		{"localhost", "ProbeInterval", natsbus.Options{ProbeInterval: 1}},
		{"localhost", "ProbeTimeout", natsbus.Options{ProbeTimeout: -1}},
		{"localhost", "NATS", natsbus.Options{NATS: []nats.Option{nats.RootCAs("no such file")}}},
	} {
		_, err := natsbus.New(test.url, &test.options)
		if !errors.Is(err, herald.ErrInvalid) || !strings.Contains(err.Error(), test.names) || strings.Contains(err.Error(), "ret") {
			t.Errorf("New(%q, %+v): %v, want an ErrInvalid that names %s, without the password", test.url, test.options, err, test.names)
		}
	}
}

func TestNewUnreachable(t *testing.T) {
	addr := servertest.FreeAddr(t)
	_, err := natsbus.New("nats://user:secret@"+addr, nil)
	if !errors.Is(err, herald.ErrBusDown) || !strings.Contains(err.Error(), addr) || strings.Contains(err.Error(), "secret") {
		t.Errorf("without a server: %v", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() // nobody accepts, so nobody greets
	_, err = natsbus.New(l.Addr().String(), &natsbus.Options{NATS: []nats.Option{nats.Timeout(100 * time.Millisecond)}})
	if !errors.Is(err, herald.ErrBusDown) {
		t.Errorf("with a server that says nothing: %v", err)
	}
}

func TestCredentials(t *testing.T) {
	server := servertest.NATS(t, "-c", config(t, `authorization {users = [{user: app, password: "s3cret"}]}`))
	for _, test := range []struct {
		url     string
		options []nats.Option
		ok      bool
	}{
		{"nats://app:s3cret@" + server.Addr, nil, true},
		{server.Addr, []nats.Option{nats.UserInfo("app", "s3cret")}, true},
		{server.Addr, []nats.Option{nats.UserInfoHandler(func() (string, string) { return "app", "s3cret" })}, true},
		{"nats://app:wrongs3cret@" + server.Addr, nil, false},
		{server.Addr, []nats.Option{nats.Token("s3cret")}, false},
		{server.Addr, nil, false},
	} {
		bus, err := natsbus.New(test.url, &natsbus.Options{NATS: test.options})
		if err == nil {
			bus.Close()
		}
		switch {
		case test.ok && err != nil:
			t.Errorf("%s: %v", test.url, err)
		case !test.ok && (!errors.Is(err, nats.ErrAuthorization) || errors.Is(err, herald.ErrBusDown) || strings.Contains(err.Error(), "s3cret")):
			t.Errorf("%s: %v, want what the server says, and no ErrBusDown", test.url, err)
		}
	}
}

// Both links are TLS, from the first byte that says something.
func TestTLS(t *testing.T) {
	dir, roots := certificate(t)
	server := servertest.NATS(t, "--tls", "--tlscert", filepath.Join(dir, "cert.pem"), "--tlskey", filepath.Join(dir, "key.pem"))
	_, port, _ := net.SplitHostPort(server.Addr)
	options := quick()
	options.NATS = []nats.Option{nats.RootCAs(filepath.Join(dir, "cert.pem"))}
	for _, url := range []string{"tls://localhost:" + port, "localhost:" + port} { // the server asks for it, too
		a := open(t, url, options)
		a.subscribe("topic")
		a.Reset()
		a.awaitKind(herald.EventRestored, 1)
		a.publishAgain("topic", strings.Repeat("x", 100_000))
		a.awaitPacket(strings.Repeat("x", 100_000))
	}
	for name, option := range map[string]nats.Option{
		"an unknown authority": nats.Secure(),
		"another name":         nats.Secure(&tls.Config{RootCAs: roots, ServerName: "other.example"}),
	} {
		if _, err := natsbus.New("localhost:"+port, &natsbus.Options{NATS: []nats.Option{option}}); !errors.Is(err, nats.ErrTLS) {
			t.Errorf("%s: %v, want ErrTLS", name, err)
		}
	}
	plain := servertest.NATS(t)
	if _, err := natsbus.New("tls://"+plain.Addr, nil); !errors.Is(err, nats.ErrSecureConnWanted) {
		t.Errorf("TLS with a server that has none: %v", err)
	}
}

// certificate makes a certificate of localhost that is its own authority.
func certificate(t *testing.T) (dir string, roots *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir = t.TempDir()
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
	err = errors.Join(os.WriteFile(filepath.Join(dir, "cert.pem"), certPEM, 0o600), os.WriteFile(filepath.Join(dir, "key.pem"), keyPEM, 0o600))
	if err != nil {
		t.Fatal(err)
	}
	roots = x509.NewCertPool()
	roots.AppendCertsFromPEM(certPEM)
	return dir, roots
}

// What a server denies from the start is named with what would allow it.
func TestNewDenied(t *testing.T) {
	for _, permissions := range []string{
		`{publish: "other.>", subscribe: "herald.>"}`,
		`{publish: "herald.>", subscribe: "other.>"}`,
	} {
		server := servertest.NATS(t, "-c", config(t, `authorization {users = [{user: app, password: app, permissions: `+permissions+`}]}`))
		_, err := natsbus.New("nats://app:app@"+server.Addr, nil)
		if err == nil || errors.Is(err, herald.ErrBusDown) || !strings.Contains(err.Error(), "allow this user to publish and to subscribe to herald.>") {
			t.Errorf("%s: %v", permissions, err)
		}
	}
}

const denying = `authorization {users = [{user: app, password: app, permissions: {
	publish: {allow: ["test.>"], deny: ["test.*.unspoken", "test.*.\"用户\"%%2E"]}
	subscribe: {allow: ["test.>"], deny: ["test.*.unheard"%s]}
}}]}`

// What a server denies of some topics is their callers' error, and nobody else's.
func TestDenied(t *testing.T) {
	path := config(t, fmt.Sprintf(denying, ""))
	server := servertest.NATS(t, "-c", path)
	a := open(t, "nats://app:app@"+server.Addr, quick())
	if err := a.Subscribe(a.context(), "one", "unheard", "two"); err == nil || !strings.Contains(err.Error(), "unheard") {
		t.Errorf("Subscribe to a denied topic: %v", err)
	}
	if err := a.Subscribe(a.context(), "unheard"); err == nil {
		t.Error("Subscribe to a denied topic once more: nil")
	}
	a.subscribe("one", "two")

	if err := a.try("unspoken", "x"); err == nil || errors.Is(err, herald.ErrUnknown) || errors.Is(err, herald.ErrBusDown) || !strings.Contains(err.Error(), "unspoken") {
		t.Errorf("Publish to a denied topic: %v", err)
	}
	if err := a.try(`"用户".`, "x"); err == nil || errors.Is(err, herald.ErrUnknown) { // the server quotes it
		t.Errorf("Publish to another denied topic: %v", err)
	}
	err := a.Publish(a.context(), herald.Packet{Topic: "one", Data: []byte("mixed")}, herald.Packet{Topic: "unspoken"})
	if !errors.Is(err, herald.ErrUnknown) {
		t.Errorf("Publish to a topic, and to one that is denied: %v, want ErrUnknown", err)
	}
	a.awaitPacket("mixed")
	results := make(chan error)
	for i := range 20 { // some of them share a batch
		go func() {
			topic := []string{"one", "unspoken"}[i%2]
			err := a.try(topic, "PUB test.x.unspoken 1\r\nx")
			if (topic == "one") != (err == nil) {
				err = fmt.Errorf("Publish to %s: %v", topic, err)
			} else {
				err = nil
			}
			results <- err
		}()
	}
	for range 20 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	a.Reset()
	a.awaitKind(herald.EventRestored, 1)
	a.publishAgain("two", "after")
	a.awaitPacket("after")
	a.awaitHealthy()

	// What is denied later is a gap that lasts.
	if err := os.WriteFile(path, fmt.Appendf(nil, denying, `, "test.*.two"`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(server.PID(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	a.awaitKind(herald.EventDown, 2)
	a.Await("a Health that names the topic", func() bool {
		for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
			if err := a.Health(); err != nil && strings.Contains(err.Error(), "two") {
				return true
			}
		}
		return false
	})
	if err := a.Unsubscribe(shortly(t), "two"); !errors.Is(err, herald.ErrBusDown) {
		t.Errorf("Unsubscribe while no link comes up: %v", err)
	}
	if err := os.WriteFile(path, fmt.Appendf(nil, denying, ""), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(server.PID(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	a.awaitKind(herald.EventRestored, 2)
	a.publishAgain("two", "again")
	a.awaitPacket("again")
}

// Beyond the server's limit a Subscribe is refused, and what was subscribed stays.
func TestTooManySubscriptions(t *testing.T) {
	server := servertest.NATS(t, "-c", config(t, `max_subscriptions: 4`)) // the Bus' own is one
	a := open(t, server.Addr, quick())
	a.subscribe("1", "2")
	if err := a.Subscribe(a.context(), "3", "4", "5"); err == nil || !strings.Contains(err.Error(), "maximum subscriptions exceeded") {
		t.Errorf("Subscribe beyond the limit: %v", err)
	}
	a.subscribe("1", "2", "3")
	for _, topic := range []string{"1", "2", "3", "4", "5"} {
		a.publish(topic, topic)
	}
	a.publish("3", "end")
	a.awaitPacket("end")
	for topic, want := range map[string]int{"1": 1, "2": 1, "3": 1, "4": 0, "5": 0} {
		if n := a.count(herald.EventPacket, topic); n != want {
			t.Errorf("topic %s: %d packets, want %d", topic, n, want)
		}
	}
	if n := a.count(herald.EventDown, ""); n > 0 {
		t.Errorf("%d gaps", n)
	}
}

// What the server would close the connection for is refused before.
func TestTooLarge(t *testing.T) {
	server := servertest.NATS(t, "-c", config(t, `max_payload: 1000`))
	a := open(t, server.Addr, quick())
	a.subscribe("topic")
	err := a.Publish(a.context(), herald.Packet{Topic: "topic", Data: []byte("small")}, herald.Packet{Topic: "topic", Data: make([]byte, 1001)})
	if !errors.Is(err, herald.ErrInvalid) || !strings.Contains(err.Error(), "1001") || !strings.Contains(err.Error(), "max_payload is 1000") {
		t.Errorf("a packet that is too large: %v", err)
	}
	a.publish("topic", strings.Repeat("x", 1000))
	a.awaitPacket(strings.Repeat("x", 1000))
	if a.count(herald.EventPacket, "small") > 0 {
		t.Error("a part of what was refused arrived")
	}
	long := strings.Repeat("*", 2000)
	if err := a.Subscribe(a.context(), long); !errors.Is(err, herald.ErrInvalid) {
		t.Errorf("Subscribe to a topic that is too long: %v", err)
	}
	if err := a.try(long, ""); !errors.Is(err, herald.ErrInvalid) {
		t.Errorf("Publish to a topic that is too long: %v", err)
	}
	if n := a.count(herald.EventDown, ""); n > 0 {
		t.Errorf("%d gaps", n)
	}
}
