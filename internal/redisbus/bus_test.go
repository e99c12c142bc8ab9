package redisbus_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/test/redistest"
	"github.com/heraldgo/herald/internal/test/servertest"
)

// If a publisher's link is killed, nothing is lost and there is no gap.
func TestRedisBusPublisherKilled(t *testing.T) {
	server := redistest.Start(t)
	bus := openRedis(t, server.Addr, 0, calm)
	if err := bus.Subscribe(t.Context(), "topic"); err != nil {
		t.Fatal(err)
	}
	taken := 0
	for i := range 4 {
		killClients(t, server.Addr, "normal")
		for deadline := time.Now().Add(patience); ; {
			err := bus.Publish(t.Context(), herald.Packet{Topic: "topic", Data: []byte(strconv.Itoa(i))})
			if err == nil {
				taken++
				break
			}
			if time.Now().After(deadline) {
				t.Fatal(err)
			}
		}
	}
	for got := 0; got < taken; {
		e, err := bus.Receive(t.Context())
		if err != nil || e.Kind != herald.EventPacket {
			t.Fatalf("got %+v, %v", e, err)
		}
		if string(e.Packet.Data) == strconv.Itoa(got) {
			got++
		}
	}
}

// awaitRestored receives events until a gap has ended.
func awaitRestored(t *testing.T, bus herald.Bus) {
	t.Helper()
	for {
		e, err := bus.Receive(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if e.Kind == herald.EventRestored {
			return
		}
	}
}

// The links use TLS if the client does.
func TestRedisBusTLS(t *testing.T) {
	server := redistest.Start(t)
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
	client := redis.NewClient(&redis.Options{Addr: l.Addr().String(), TLSConfig: &tls.Config{RootCAs: roots, ServerName: "example.com"}})
	defer client.Close()
	bus, err := herald.NewRedisBus(client, calm)
	if err != nil {
		t.Fatal(err)
	}
	defer bus.Close()
	if err := bus.Subscribe(t.Context(), "topic"); err != nil {
		t.Fatal(err)
	}
	bus.Reset()
	awaitRestored(t, bus)
	if err := bus.Publish(t.Context(), herald.Packet{Topic: "topic", Data: []byte("heard")}); err != nil {
		t.Fatal(err)
	}
	if e, err := bus.Receive(t.Context()); err != nil || string(e.Packet.Data) != "heard" {
		t.Errorf("got %+v, %v", e, err)
	}
}

func TestNewRedisBusErrors(t *testing.T) {
	dead := redis.NewClient(&redis.Options{Addr: servertest.FreeAddr(t)})
	defer dead.Close()
	if _, err := herald.NewRedisBus(dead, nil); !errors.Is(err, herald.ErrBusDown) {
		t.Errorf("without a server: %v, want ErrBusDown", err)
	}
	ring := redis.NewRing(&redis.RingOptions{})
	defer ring.Close()
	cluster := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{servertest.FreeAddr(t)}, MaxRedirects: -1})
	defer cluster.Close()
	if _, err := herald.NewRedisBus(cluster, nil); !errors.Is(err, herald.ErrBusDown) {
		t.Errorf("without a Cluster: %v, want ErrBusDown", err)
	}
	wrapped := struct{ *redis.Client }{dead}
	for _, client := range []redis.UniversalClient{ring, wrapped, nil, (*redis.Client)(nil), (*redis.ClusterClient)(nil)} {
		_, err := herald.NewRedisBus(client, nil)
		if !errors.Is(err, herald.ErrInvalid) {
			t.Errorf("%T: %v, want ErrInvalid", client, err)
		}
	}
	for _, options := range []herald.RedisOptions{{Prefix: "a{b"}, {Prefix: "a*"}, {ProbeInterval: 1}, {ProbeTimeout: -1}} {
		if _, err := herald.NewRedisBus(dead, &options); err == nil || errors.Is(err, herald.ErrBusDown) {
			t.Errorf("%+v: %v, want a fault", options, err)
		}
	}
}

// If an ACL denies a command, the error names it, and what would allow it.
func TestNewRedisBusACL(t *testing.T) {
	server := redistest.Start(t)
	admin := server.Client()
	open := func(rules ...any) error {
		args := append([]any{"ACL", "SETUSER", "app", "reset", "on", ">secret"}, rules...)
		if err := admin.Do(t.Context(), args...).Err(); err != nil {
			t.Fatal(err)
		}
		client := redis.NewClient(&redis.Options{Addr: server.Addr, Username: "app", Password: "secret"})
		defer client.Close()
		bus, err := herald.NewRedisBus(client, nil)
		if err != nil {
			return err
		}
		defer bus.Close()
		return errors.Join(bus.Subscribe(t.Context(), "topic"), bus.Publish(t.Context(), herald.Packet{Topic: "topic"}))
	}
	for _, denied := range [][]any{
		{"+publish", "+subscribe", "+unsubscribe"},
		{"+subscribe", "+unsubscribe", "&herald:*"},
		{"+publish", "+unsubscribe", "&herald:*"},
		{"+publish", "+subscribe", "&herald:*"},
	} {
		err := open(denied...)
		if err == nil || errors.Is(err, herald.ErrBusDown) {
			t.Errorf("%v: %v", denied, err)
			continue
		}
		t.Log(fmt.Sprint(denied...), err)
	}
	if err := open("+publish", "+subscribe", "+unsubscribe", "&herald:*"); err != nil {
		t.Errorf("all that the error asks for: %v", err)
	}
	if err := admin.Do(t.Context(), "CONFIG", "SET", "requirepass", "other").Err(); err != nil {
		t.Fatal(err)
	}
	client := redis.NewClient(&redis.Options{Addr: server.Addr, Password: "wrong"})
	defer client.Close()
	if _, err := herald.NewRedisBus(client, nil); !errors.Is(err, herald.ErrBusDown) || !strings.Contains(err.Error(), "WRONGPASS") {
		t.Errorf("wrong password: %v", err)
	}
}

// A link that rests between its reads delivers all packets in order, also those
// that arrive when it has become quiet. It may be reset or closed meanwhile.
func TestRedisBusBusy(t *testing.T) {
	server := redistest.Start(t)
	bus, other := openRedis(t, server.Addr, 0, calm), openRedis(t, server.Addr, 0, calm)
	if err := bus.Subscribe(t.Context(), "topic"); err != nil {
		t.Fatal(err)
	}
	next := 0
	publish := func(ctx context.Context) error {
		packets := make([]herald.Packet, 50)
		for i := range packets {
			packets[i] = herald.Packet{Topic: "topic", Data: []byte(strconv.Itoa(next))}
			next++
		}
		return other.Publish(ctx, packets...)
	}
	want := 0
	receive := func() {
		t.Helper()
		for want < next {
			e, err := bus.Receive(t.Context())
			if err != nil || string(e.Packet.Data) != strconv.Itoa(want) {
				t.Fatalf("got %+v, %v, want packet %d", e, err, want)
			}
			want++
		}
	}
	for range 20 {
		for range 40 { // within less than 16 ms, mostly
			if err := publish(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		receive()
		time.Sleep(5 * time.Millisecond)
	}
	for range 100 { // all packets are received before the next is sent
		if err := other.Publish(t.Context(), herald.Packet{Topic: "topic", Data: []byte(strconv.Itoa(next))}); err != nil {
			t.Fatal(err)
		}
		next++
		receive()
	}
	flood, stop := context.WithCancel(t.Context())
	var publishing sync.WaitGroup
	publishing.Go(func() {
		for publish(flood) == nil {
		}
	})
	defer publishing.Wait()
	defer stop()
	for range 3 {
		bus.Reset()
		awaitRestored(t, bus)
	}
	bus.Close()
}
