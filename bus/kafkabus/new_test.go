package kafkabus_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl/plain"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/bus/kafkabus"
	"github.com/heraldgo/herald/internal/test/servertest"
)

func TestNewInvalid(t *testing.T) {
	for _, test := range []struct {
		brokers string
		options kafkabus.Options
		field   string
	}{
		{"", kafkabus.Options{}, "addresses"},
		{"host", kafkabus.Options{}, "addresses"},
		{"host:", kafkabus.Options{}, "addresses"},
		{"host:1,", kafkabus.Options{}, "addresses"},
		{"kafka://", kafkabus.Options{}, "addresses"},
		{"kafka://user:secret@host:1", kafkabus.Options{}, "addresses"},
		{"kafka://host:1/a/b", kafkabus.Options{}, "addresses"},
		{"http://host:1", kafkabus.Options{}, "addresses"},
		{"kafka://host:1/to%20pic", kafkabus.Options{}, "Options.Topic"},
		{"kafka://host:1/a", kafkabus.Options{Topic: "b"}, "Options.Topic"},
		{"host:1", kafkabus.Options{Topic: "a b"}, "Options.Topic"},
		{"host:1", kafkabus.Options{Topic: ".."}, "Options.Topic"},
		{"host:1", kafkabus.Options{Topic: strings.Repeat("x", 250)}, "Options.Topic"},
		{"host:1", kafkabus.Options{ProbeInterval: 1}, "Options.ProbeInterval"},
		{"host:1", kafkabus.Options{ProbeTimeout: 1}, "Options.ProbeTimeout"},
		{"host:1", kafkabus.Options{ProbeTimeout: -1}, "Options.ProbeTimeout"},
		{"host:1", kafkabus.Options{Create: &kafkabus.Create{Partitions: -1}}, "Options.Create.Partitions"},
		{"host:1", kafkabus.Options{Create: &kafkabus.Create{ReplicationFactor: -1}}, "Options.Create.ReplicationFactor"},
		{"host:1", kafkabus.Options{Opts: []kgo.Opt{kgo.ConsumerGroup("group")}}, "Options.Opts"},
	} {
		_, err := kafkabus.New(test.brokers, &test.options)
		if !errors.Is(err, herald.ErrInvalid) || !strings.Contains(err.Error(), test.field) || strings.Contains(err.Error(), "secret") {
			t.Errorf("New(%q, %+v): %v, want ErrInvalid of %s", test.brokers, test.options, err, test.field)
		}
	}
}

func TestNewErrors(t *testing.T) {
	if _, err := kafkabus.New(servertest.FreeAddr(t), nil); !errors.Is(err, herald.ErrBusDown) {
		t.Errorf("without a broker: %v, want ErrBusDown", err)
	}
	b := startFake(t)
	_, err := kafkabus.New(b.seeds(), &kafkabus.Options{Topic: "missing"})
	if !errors.Is(err, kerr.UnknownTopicOrPartition) || !strings.Contains(err.Error(), "missing") || !strings.Contains(err.Error(), "Create") {
		t.Errorf("without the topic: %v", err)
	}
	b.blackhole(true)
	if _, err := kafkabus.New(b.seeds(), &kafkabus.Options{ProbeTimeout: quick.ProbeTimeout, Opts: []kgo.Opt{b.dialer()}}); !errors.Is(err, herald.ErrBusDown) {
		t.Errorf("in a black hole: %v, want ErrBusDown", err)
	}
}

// New creates a topic when it is asked to, once for all who ask.
func TestCreate(t *testing.T) {
	b := startFake(t)
	options := &kafkabus.Options{Create: &kafkabus.Create{Partitions: 5, Configs: map[string]string{"retention.ms": "60000"}}}
	buses := make(chan *kafkabus.Bus)
	for range 3 {
		go func() {
			bus, err := kafkabus.New("kafka://"+b.seeds()+"/created", options)
			if err != nil {
				t.Error(err)
			}
			buses <- bus
		}()
	}
	for range 3 {
		if bus := <-buses; bus != nil {
			if err := bus.Publish(t.Context(), herald.Packet{Topic: "topic", Data: make([]byte, 1<<20)}); err != nil {
				t.Error(err)
			}
			bus.Close()
		}
	}
	info := b.cluster.TopicInfo("created")
	if info == nil {
		t.Fatal("there is no topic")
	}
	if got := len(b.cluster.PartitionInfos("created")); got != 5 {
		t.Errorf("%d partitions, want 5", got)
	}
	for name, want := range map[string]string{"retention.ms": "60000", "max.message.bytes": "2097152"} {
		if got := info.Configs[name]; got == nil || *got != want {
			t.Errorf("%s is %v, want %s", name, got, want)
		}
	}
}

// An error names what Kafka must allow.
func TestDenied(t *testing.T) {
	allow := func(operations ...kmsg.ACLOperation) (acls []kfake.ACL) {
		for _, operation := range operations {
			acls = append(acls, kfake.ACL{Resource: kmsg.ACLResourceTypeTopic, Name: "herald",
				Pattern: kmsg.ACLResourcePatternTypeLiteral, Operation: operation, Allow: true})
		}
		return acls
	}
	const read, write = kmsg.ACLOperationRead, kmsg.ACLOperationWrite
	b := startFake(t, kfake.EnableSASL(), kfake.EnableACLs(), kfake.Superuser("PLAIN", "admin", "admin"),
		kfake.User("PLAIN", "all", "secret", allow(read, write)...),
		kfake.User("PLAIN", "reader", "secret", allow(read)...),
		kfake.User("PLAIN", "writer", "secret", allow(write)...),
		kfake.User("PLAIN", "nobody", "secret"))
	for user, want := range map[string]string{"all": "", "reader": "WRITE", "writer": "READ", "nobody": "DESCRIBE"} {
		mechanism := plain.Auth{User: user, Pass: "secret"}.AsMechanism()
		bus, err := kafkabus.New(b.seeds(), &kafkabus.Options{ProbeTimeout: quick.ProbeTimeout, Opts: []kgo.Opt{kgo.SASL(mechanism)}})
		switch {
		case err == nil:
			bus.Close()
			if want != "" {
				t.Errorf("%s: no error", user)
			}
		case want == "" || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") || errors.Is(err, herald.ErrBusDown):
			t.Errorf("%s: %v; want one that names %q", user, err, want)
		}
	}
}

// An error says that it is the credentials. kfake itself hangs up.
func TestRefused(t *testing.T) {
	b := startFake(t, kfake.EnableSASL())
	b.cluster.ControlKey(int16(kmsg.SASLAuthenticate), func(req kmsg.Request) (kmsg.Response, error, bool) {
		b.cluster.KeepControl()
		resp := req.ResponseKind().(*kmsg.SASLAuthenticateResponse)
		resp.ErrorCode = kerr.SaslAuthenticationFailed.Code
		return resp, nil, true
	})
	mechanism := plain.Auth{User: "user", Pass: "secret"}.AsMechanism()
	_, err := kafkabus.New(b.seeds(), &kafkabus.Options{Opts: []kgo.Opt{kgo.SASL(mechanism)}})
	if !errors.Is(err, kerr.SaslAuthenticationFailed) || errors.Is(err, herald.ErrBusDown) || strings.Contains(err.Error(), "secret") {
		t.Errorf("got %v", err)
	}
}

// The connections are TLS if Options.Opts say so.
func TestTLS(t *testing.T) {
	web := httptest.NewTLSServer(nil) // for its certificate
	defer web.Close()
	b := startFake(t, kfake.TLS(&tls.Config{Certificates: web.TLS.Certificates}))
	roots := x509.NewCertPool()
	roots.AddCert(web.Certificate())
	bus, err := kafkabus.New(b.seeds(), &kafkabus.Options{Opts: []kgo.Opt{kgo.DialTLSConfig(&tls.Config{RootCAs: roots, ServerName: "example.com"})}})
	if err != nil {
		t.Fatal(err)
	}
	defer bus.Close()
	if err := bus.Subscribe(t.Context(), "topic"); err != nil {
		t.Fatal(err)
	}
	if err := bus.Publish(t.Context(), herald.Packet{Topic: "topic", Data: []byte("heard")}); err != nil {
		t.Fatal(err)
	}
	if e, err := bus.Receive(t.Context()); err != nil || string(e.Packet.Data) != "heard" {
		t.Errorf("got %+v, %v", e, err)
	}
}
