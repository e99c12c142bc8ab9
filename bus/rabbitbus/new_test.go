package rabbitbus_test

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rabbitmq/amqp091-go"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/bus/rabbitbus"
	"github.com/heraldgo/herald/internal/test/servertest"
)

const secret = "pa55word"

// fails returns the error of New, which must not tell the password.
func fails(t *testing.T, url string, options *rabbitbus.Options) error {
	t.Helper()
	bus, err := rabbitbus.New(url, options)
	if err == nil {
		bus.Close()
		t.Fatal("New returned no error")
	}
	if strings.Contains(err.Error(), secret) {
		t.Errorf("New tells the password: %v", err)
	}
	t.Log(err)
	return err
}

func TestNewInvalid(t *testing.T) {
	nowhere := "amqp://user:" + secret + "@" + servertest.FreeAddr(t)
	if err := fails(t, nowhere, nil); !errors.Is(err, herald.ErrBusDown) {
		t.Errorf("nobody listens: %v, want ErrBusDown", err)
	}
	for _, options := range []rabbitbus.Options{
		{Exchange: "amq.fanout"},
		{Exchange: strings.Repeat("x", 250)},
		{ProbeInterval: 1},
		{ProbeTimeout: -1},
		{Config: amqp091.Config{Recovery: &amqp091.Recovery{}}},
	} {
		if err := fails(t, nowhere, &options); !errors.Is(err, herald.ErrInvalid) {
			t.Errorf("%+v: %v, want ErrInvalid", options, err)
		}
	}
	for _, url := range []string{
		"", "redis://host", "amqp://user:" + secret + "/x@host", "amqp://user:" + secret + "%zz@host",
		"amqp://user:" + secret + "@host:x", "amqp://user:" + secret + "@host?heartbeat=x",
	} {
		if err := fails(t, url, nil); !errors.Is(err, herald.ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", url, err)
		}
	}
}

// What RabbitMQ refuses is told, with what would help.
func TestNewRefused(t *testing.T) {
	server := broker(t)
	for _, args := range [][]string{{"add_user", "app", secret}, {"add_vhost", "other"}} {
		server.RabbitMQCtl(args...)
	}
	allow := func(configure, write, read string) {
		server.RabbitMQCtl("set_permissions", "app", configure, write, read)
	}
	try := func(password, vhost, wants string) {
		t.Helper()
		err := fails(t, "amqp://app:"+password+"@"+server.Addr+"/"+vhost, nil)
		if errors.Is(err, herald.ErrBusDown) || !strings.Contains(err.Error(), wants) {
			t.Errorf("%v, want %q, and not ErrBusDown", err, wants)
		}
	}
	try("wrong"+secret, "", "refuses the connection")
	try(secret, "", "refuses the connection")
	try(secret, "other", "refuses the connection")
	try(secret, "missing", "refuses the connection")
	const all = `^(herald(\.order)?|amq\.gen-.*)$`
	for _, permissions := range [][3]string{
		{"", all, all}, {all, "", all}, {all, all, ""},
		{"^herald$|^amq", all, all}, {all, "^herald$|^amq", all}, {all, all, "^herald$|^amq"},
		{`^herald(\.order)?$`, all, all},
	} {
		allow(permissions[0], permissions[1], permissions[2])
		try(secret, "", "amq.gen-*")
	}
	allow(all, all, all)
	bus, err := rabbitbus.New("amqp://app:"+secret+"@"+server.Addr, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer bus.Close()
	hears(t, bus)
}

// hears publishes a packet that the Bus has to receive.
func hears(t *testing.T, bus *rabbitbus.Bus) {
	t.Helper()
	if err := bus.Subscribe(t.Context(), "topic"); err != nil {
		t.Fatal(err)
	}
	if err := bus.Publish(t.Context(), herald.Packet{Topic: "topic", Data: []byte("heard")}); err != nil {
		t.Fatal(err)
	}
	expect(t, bus, "heard")
}

// An exchange that is there already must be what the Bus needs.
func TestExchangeDiffers(t *testing.T) {
	server := broker(t)
	for _, test := range []struct {
		suffix, kind        string
		durable, autoDelete bool
	}{
		{"", "topic", true, false},
		{"", "fanout", false, false},
		{"", "fanout", true, true},
		{".order", "direct", true, false},
	} {
		exchange := rand.Text()
		if err := operator(t, server).ExchangeDeclare(exchange+test.suffix, test.kind, test.durable, test.autoDelete, false, false, nil); err != nil {
			t.Fatal(err)
		}
		err := fails(t, url(server.Addr), &rabbitbus.Options{Exchange: exchange})
		if !errors.Is(err, herald.ErrInvalid) || errors.Is(err, herald.ErrBusDown) {
			t.Errorf("%+v: %v, want ErrInvalid", test, err)
		}
	}
}

// The links are TLS if the URL says so, with the certificates of Config.
func TestTLS(t *testing.T) {
	server := broker(t)
	web := httptest.NewTLSServer(nil) // for its certificate
	defer web.Close()
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: web.TLS.Certificates})
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	defer running.Wait()
	defer l.Close()
	running.Go(func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			to, err := net.Dial("tcp", server.Addr)
			if err != nil {
				from.Close()
				continue
			}
			for _, pair := range [][2]net.Conn{{from, to}, {to, from}} {
				running.Go(func() {
					io.Copy(pair[0], pair[1])
					pair[0].Close()
				})
			}
		}
	})
	roots := x509.NewCertPool()
	roots.AddCert(web.Certificate())
	options := rabbitbus.Options{Exchange: rand.Text(), Config: amqp091.Config{
		TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "example.com"},
		SASL:            []amqp091.Authentication{&amqp091.PlainAuth{Username: "guest", Password: "guest"}},
		Properties:      amqp091.Table{"product": "test"},
	}}
	bus, err := rabbitbus.New("amqps://"+l.Addr().String(), &options)
	if err != nil {
		t.Fatal(err)
	}
	defer bus.Close()
	hears(t, bus)
	bus.Reset()
	for restored := false; !restored; {
		e, err := bus.Receive(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		restored = e.Kind == herald.EventRestored
	}
	for bus.Health() != nil { // the publisher may back off
		time.Sleep(time.Millisecond)
	}
	hears(t, bus)
	if len(options.Config.Properties) != 1 {
		t.Errorf("New has written to the caller's Properties: %v", options.Config.Properties)
	}
}

// publishTo publishes a message and waits until it is confirmed.
func publishTo(t testing.TB, channel *amqp091.Channel, exchange string, body []byte) {
	t.Helper()
	if err := channel.Confirm(false); err != nil {
		t.Fatal(err)
	}
	confirm, err := channel.PublishWithDeferredConfirm(exchange, "", false, false, amqp091.Publishing{Body: body})
	if err != nil || !confirm.Wait() {
		t.Fatal("not confirmed:", err)
	}
}
