package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/bus/kafkabus"
	"github.com/heraldgo/herald/bus/mqttbus"
	"github.com/heraldgo/herald/bus/natsbus"
	"github.com/heraldgo/herald/bus/rabbitbus"
	"github.com/heraldgo/herald/internal/test/faultrig"
	"github.com/heraldgo/herald/internal/test/netproxy"
	"github.com/heraldgo/herald/internal/test/servertest"
)

// buses opens the Buses of nodes, by the name of the broker.
var buses = map[string]faultrig.OpenBus{
	"NATS": func(addrs []string, via map[string]string) (herald.Bus, error) {
		return natsbus.New("nats://"+via[addrs[0]], nil)
	},
	"RabbitMQ": func(addrs []string, via map[string]string) (herald.Bus, error) {
		return rabbitbus.New("amqp://guest:guest@"+via[addrs[0]], nil)
	},
	"MQTT": func(addrs []string, via map[string]string) (herald.Bus, error) {
		return mqttbus.New("mqtt://"+via[addrs[0]], nil)
	},
	"Kafka": func(addrs []string, via map[string]string) (herald.Bus, error) {
		// Brokers tell clients where they are: the dialer leads to the proxies.
		dial := kgo.Dialer(func(ctx context.Context, network, addr string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, via[addr])
		})
		return kafkabus.New("kafka://"+addrs[0], &kafkabus.Options{Opts: []kgo.Opt{dial}})
	},
}

// brokers starts them, by name.
var brokers = map[string]func(t testing.TB, split bool) *faultrig.Broker{
	"NATS":     startNATS,
	"RabbitMQ": func(t testing.TB, _ bool) *faultrig.Broker { return broker("RabbitMQ", servertest.RabbitMQ(t)) },
	"MQTT":     func(t testing.TB, _ bool) *faultrig.Broker { return broker("MQTT", servertest.Mosquitto(t)) },
	"Kafka":    startKafka,
}

func broker(kind string, s *servertest.Server) *faultrig.Broker {
	return &faultrig.Broker{Kind: kind, Addrs: []string{s.Addr}, Kill: s.Kill, Restart: s.Restart}
}

// startNATS starts a server, or two of one cluster whose only route can be cut.
func startNATS(t testing.TB, split bool) *faultrig.Broker {
	t.Helper()
	if !split {
		return broker("NATS", servertest.NATS(t))
	}
	at := servertest.FreeAddr(t)
	start := func(listen, routes string) *servertest.Server {
		file := filepath.Join(t.TempDir(), "nats.conf")
		text := fmt.Sprintf("cluster { name: test, listen: %q, no_advertise: true, routes: [%s] }\n", listen, routes)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return servertest.NATS(t, "-c", file)
	}
	first := start(at, "")
	route := netproxy.Start(t, at)
	second := start(servertest.FreeAddr(t), strconv.Quote("nats://"+route.Addr))
	return &faultrig.Broker{
		Kind:  "NATS",
		Addrs: []string{first.Addr, second.Addr},
		Split: func(on bool) {
			route.Blackhole(on)
			if !on {
				route.Cut() // what has lost a byte is dead: the servers connect anew
			}
		},
	}
}

// startKafka starts kfake, Kafka's imitation in franz-go: three brokers in this
// process, which keep what they have on disk.
func startKafka(t testing.TB, _ bool) *faultrig.Broker {
	t.Helper()
	dir := t.TempDir()
	start := func(opts ...kfake.Opt) *kfake.Cluster {
		cluster, err := kfake.NewCluster(append(opts, kfake.NumBrokers(3), kfake.DataDir(dir))...)
		if err != nil {
			t.Fatal(err)
		}
		return cluster
	}
	cluster := start()
	if err := cluster.CreateTopic("herald", 6, map[string]string{"max.message.bytes": "2097152"}); err != nil {
		t.Fatal(err)
	}
	addrs := cluster.ListenAddrs()
	t.Cleanup(func() { cluster.Close() })
	return &faultrig.Broker{
		Kind: "Kafka", Addrs: addrs,
		Kill: func() { cluster.Close() },
		Restart: func() {
			var ports []int
			for _, addr := range addrs {
				_, port, _ := net.SplitHostPort(addr)
				n, _ := strconv.Atoi(port)
				ports = append(ports, n)
			}
			cluster = start(kfake.Ports(ports...))
		},
	}
}
