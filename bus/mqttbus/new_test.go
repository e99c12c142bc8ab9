package mqttbus_test

import (
	"bytes"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/bus/mqttbus"
	"github.com/heraldgo/herald/internal/test/servertest"
)

func TestNewInvalid(t *testing.T) {
	const good = "mqtt://localhost"
	for _, test := range []struct {
		url     string
		options mqttbus.Options
		want    string
	}{
		{"", mqttbus.Options{}, "url:"},
		{"localhost:1883", mqttbus.Options{}, "url:"},
		{"amqp://user:secret@localhost", mqttbus.Options{}, "url:"},
		{"mqtt://user:secret@", mqttbus.Options{}, "url:"},
		{"mqtt://user:se#cret@localhost", mqttbus.Options{}, "url:"},
		{"mqtt://user:12#secret@localhost", mqttbus.Options{}, "url:"},
		{"mqtt://user:12/secret@localhost", mqttbus.Options{}, "url:"},
		{"mqtt://user:12?secret@localhost", mqttbus.Options{}, "url:"},
		{"mqtt://user:secret%@localhost", mqttbus.Options{}, "url:"},
		{"mqtt://user:secret@localhost:port", mqttbus.Options{}, "url:"},
		{"mqtt://user:secret@localhost/secret", mqttbus.Options{}, "url:"},
		{good, mqttbus.Options{TLS: &tls.Config{}}, "Options.TLS:"},
		{good, mqttbus.Options{QoS: 2}, "Options.QoS: 2:"},
		{good, mqttbus.Options{ProbeInterval: 1}, "Options.ProbeInterval:"},
		{good, mqttbus.Options{ProbeTimeout: -1}, "Options.ProbeTimeout:"},
		{good, mqttbus.Options{Prefix: "a/#"}, `Options.Prefix: "a/#"`},
		{good, mqttbus.Options{Prefix: "+"}, "Options.Prefix:"},
		{good, mqttbus.Options{Prefix: "$share/a/b"}, "Options.Prefix:"},
		{good, mqttbus.Options{Prefix: "a%2Fb"}, "Options.Prefix:"},
		{good, mqttbus.Options{Prefix: "a\x00"}, "Options.Prefix:"},
		{good, mqttbus.Options{Prefix: "\xff"}, "Options.Prefix:"},
		{good, mqttbus.Options{Prefix: strings.Repeat("x", 1001)}, "Options.Prefix:"},
	} {
		_, err := mqttbus.New(test.url, &test.options)
		if !errors.Is(err, herald.ErrInvalid) || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "cret") {
			t.Errorf("New(%q, %+v) returned %v", test.url, test.options, err)
		}
	}
	_, err := mqttbus.New("x", &mqttbus.Options{QoS: 2, Prefix: "#"})
	for _, want := range []string{"url:", "Options.QoS", "Options.Prefix"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("of several faults, %s is not in %v", want, err)
		}
	}
}

func TestNewDown(t *testing.T) {
	_, err := mqttbus.New("mqtt://user:secret@"+servertest.FreeAddr(t), nil)
	if !errors.Is(err, herald.ErrBusDown) || strings.Contains(err.Error(), "secret") {
		t.Errorf("nobody listens: %v", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0") // and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = mqttbus.New("mqtt://user:secret@"+l.Addr().String(), &mqttbus.Options{ProbeTimeout: 100 * time.Millisecond})
	if !errors.Is(err, herald.ErrBusDown) || strings.Contains(err.Error(), "secret") {
		t.Errorf("nobody answers: %v", err)
	}
}

// write writes a file for a server of the test.
func write(t *testing.T, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// account is a line of mosquitto's password_file.
func account(user, password string) string {
	const salt = "twelve bytes"
	sum := sha512.Sum512([]byte(password + salt))
	encode := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("%s:$6$%s$%s\n", user, encode([]byte(salt)), encode(sum[:]))
}

func TestPermissions(t *testing.T) {
	const password = "s%e/c#r@e?t"
	var accounts, acl strings.Builder
	for user, topics := range map[string]string{
		"full":    "topic readwrite herald/#",
		"nothing": "topic readwrite other/#",
		"read":    "topic read herald/#",
		"write":   "topic write herald/#",
	} {
		accounts.WriteString(account(user, password))
		fmt.Fprintf(&acl, "user %s\n%s\n", user, topics)
	}
	server := servertest.Mosquitto(t, "allow_anonymous false",
		"password_file "+write(t, "passwords", []byte(accounts.String())),
		"acl_file "+write(t, "acl", []byte(acl.String())))
	const needs = "allow to publish and to subscribe to herald/#"
	for _, test := range []struct{ user, password, want string }{
		{"full", password, ""},
		{"full", "s%e/c#r@wrong", "refuses the connection"},
		{"nobody", password, "refuses the connection"},
		{"", "", "refuses the connection"},
		{"nothing", password, needs},
		{"read", password, needs},
		{"write", password, needs},
	} {
		url := "mqtt://"
		if test.user != "" {
			url += test.user + ":" + escape(test.password) + "@"
		}
		bus, err := mqttbus.New(url+server.Addr, &mqttbus.Options{ProbeTimeout: time.Second})
		if err == nil {
			bus.Close()
		}
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want) || errors.Is(err, herald.ErrBusDown)) {
			t.Errorf("%s: %v", test.user, err)
		}
		if err != nil && strings.Contains(err.Error(), "s%e") {
			t.Errorf("%s: the password is in %v", test.user, err)
		}
	}
}

func escape(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		fmt.Fprintf(&b, "%%%02X", c)
	}
	return b.String()
}

func TestTLS(t *testing.T) {
	web := httptest.NewTLSServer(nil) // for its certificate
	defer web.Close()
	key, err := x509.MarshalPKCS8PrivateKey(web.TLS.Certificates[0].PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	server := servertest.Mosquitto(t,
		"certfile "+write(t, "cert", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: web.Certificate().Raw})),
		"keyfile "+write(t, "key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})))
	roots := x509.NewCertPool()
	roots.AddCert(web.Certificate())
	bus, err := mqttbus.New("mqtts://"+server.Addr, &mqttbus.Options{TLS: &tls.Config{RootCAs: roots}, ProbeInterval: time.Second / 10})
	if err != nil {
		t.Fatal(err)
	}
	defer bus.Close()
	large := strings.Repeat("x", 1<<20)
	if err := errors.Join(bus.Subscribe(t.Context(), "topic"),
		bus.Publish(t.Context(), herald.Packet{Topic: "topic", Data: []byte("1")}),
		bus.Publish(t.Context(), herald.Packet{Topic: "topic", Data: []byte(large)})); err != nil {
		t.Fatal(err)
	}
	expect(t, bus, "topic 1", "topic "+large)
	if _, err := mqttbus.New("mqtts://"+server.Addr, nil); !errors.Is(err, herald.ErrBusDown) {
		t.Errorf("with a certificate that nobody knows: %v", err)
	}
}

// What a broker's limits do not allow is refused before it is sent, and harms
// nothing else.
func TestBrokerLimits(t *testing.T) {
	server := servertest.Mosquitto(t, "max_packet_size 2000", "max_qos 0")
	if _, err := mqttbus.New("mqtt://"+server.Addr, &mqttbus.Options{QoS: 1}); !errors.Is(err, herald.ErrInvalid) {
		t.Errorf("QoS 1 on a broker that has none: %v", err)
	}
	bus := open(t, server.Addr, nil)
	if err := bus.Subscribe(t.Context(), "topic"); err != nil {
		t.Fatal(err)
	}
	fits := herald.Packet{Topic: "topic", Data: []byte("fits")}
	err := bus.Publish(t.Context(), fits, herald.Packet{Topic: "topic", Data: make([]byte, 2000)})
	if !errors.Is(err, herald.ErrInvalid) || errors.Is(err, herald.ErrUnknown) {
		t.Errorf("a packet that is too large: %v", err)
	}
	long := strings.Repeat("/", 900)
	if err := bus.Subscribe(t.Context(), "other", long); err == nil || !strings.Contains(err.Error(), "too long") {
		t.Errorf("a topic that is too long for the broker: %v", err)
	}
	if err := bus.Subscribe(t.Context(), strings.Repeat("/", 2000)); !errors.Is(err, herald.ErrInvalid) {
		t.Errorf("a topic that is too long for anyone: %v", err)
	}
	many := make([]string, 1000)
	for i := range many {
		many[i] = fmt.Sprint(strings.Repeat("long ", 30), i)
	}
	if err := errors.Join(bus.Subscribe(t.Context(), many...), bus.Publish(t.Context(), fits), bus.Unsubscribe(t.Context(), many...)); err != nil {
		t.Fatal(err)
	}
	expect(t, bus, "topic fits") // and no gap
}

// A topic costs no goroutine.
func TestManyTopics(t *testing.T) {
	bus := open(t, servertest.Mosquitto(t).Addr, nil)
	before := runtime.NumGoroutine()
	topics := make([]string, 50_000)
	for i := range topics {
		topics[i] = fmt.Sprint("user ", i)
	}
	if err := errors.Join(bus.Subscribe(t.Context(), topics...), bus.Subscribe(t.Context(), topics...)); err != nil {
		t.Fatal(err)
	}
	if after := runtime.NumGoroutine(); after > before+10 {
		t.Errorf("%d goroutines, and %d before", after, before)
	}
	for _, topic := range []string{topics[0], topics[len(topics)-1]} {
		if err := bus.Publish(t.Context(), herald.Packet{Topic: topic, Data: []byte("once")}); err != nil {
			t.Fatal(err)
		}
		expect(t, bus, topic+" once")
	}
}

// What others publish under our prefix is not handed over. What is kept for
// new subscribers is nothing of ours, and silently dropped; what else cannot be
// read might have been a packet, and is reported.
func TestForeignPackets(t *testing.T) {
	server := servertest.Mosquitto(t)
	bus := open(t, server.Addr, nil)
	conn, err := net.Dial("tcp", server.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	send := func(p packets.Packet) {
		t.Helper()
		if _, err := p.WriteTo(conn); err != nil {
			t.Fatal(err)
		}
	}
	receive := func() {
		t.Helper()
		if _, err := packets.ReadPacket(conn); err != nil {
			t.Fatal(err)
		}
	}
	none := &packets.Properties{}
	send(&packets.Connect{ProtocolName: "MQTT", ProtocolVersion: 5, CleanStart: true, ClientID: "foreigner", Properties: none})
	receive()
	send(&packets.Publish{Topic: "herald/topic", Payload: []byte("\x01 kept, and as long as ours"), Retain: true, QoS: 1, PacketID: 1, Properties: none})
	receive()
	if err := bus.Subscribe(t.Context(), "topic", "other"); err != nil {
		t.Fatal(err)
	}
	if err := bus.Publish(t.Context(), herald.Packet{Topic: "topic", Data: []byte("ours")}); err != nil {
		t.Fatal(err)
	}
	expect(t, bus, "topic ours")
	before := time.Now()
	send(&packets.Publish{Topic: "herald/other", Payload: bytes.Repeat([]byte("x"), 100), Properties: none})
	down, err := bus.Receive(t.Context())
	if err != nil || down.Kind != herald.EventDown || fmt.Sprint(down.Topics) != "[other]" || down.Since.After(before) || down.Err == nil {
		t.Errorf("got %+v, %v, of a packet that cannot be read", down, err)
	}
	restored, err := bus.Receive(t.Context())
	if err != nil || restored.Kind != herald.EventRestored || fmt.Sprint(restored.Topics) != "[other]" {
		t.Errorf("got %+v, %v after it", restored, err)
	}
}
