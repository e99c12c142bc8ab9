package kafkabus_test

import (
	"context"
	"net"
	"strconv"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/heraldgo/herald/bus/kafkabus"
	"github.com/heraldgo/herald/internal/test/netproxy"
)

// A broker is a Kafka cluster behind proxies, one for each of its brokers:
// kfake, in this process, or a real one. Kafka's clients connect to the
// addresses that brokers tell them; so it is the dialer that leads
// them to the proxies.
type broker struct {
	t       testing.TB
	cluster *kfake.Cluster // nil if it is real
	opts    []kfake.Opt
	addrs   []string
	proxies map[string]*netproxy.Proxy // by address
}

// What a kfake cluster has.
const (
	brokers    = 3
	partitions = 6
)

// startFake starts a kfake cluster that has the topics herald and other.
func startFake(t testing.TB, opts ...kfake.Opt) *broker {
	t.Helper()
	b := &broker{t: t, opts: opts}
	b.start(kfake.NumBrokers(brokers))
	t.Cleanup(func() { b.cluster.Close() })
	b.addrs = b.cluster.ListenAddrs()
	b.proxy()
	return b
}

func (b *broker) start(opts ...kfake.Opt) {
	b.t.Helper()
	cluster, err := kfake.NewCluster(append(opts, b.opts...)...)
	if err != nil {
		b.t.Fatal(err)
	}
	b.cluster = cluster
	for _, topic := range []string{"herald", "other"} {
		if cluster.TopicInfo(topic) == nil { // it may have come back from disk
			b.create(topic)
		}
	}
}

// create creates a topic, straight in the cluster.
func (b *broker) create(topic string) {
	b.t.Helper()
	if err := b.cluster.CreateTopic(topic, partitions, map[string]string{"max.message.bytes": "2097152"}); err != nil {
		b.t.Fatal(err)
	}
}

// proxy starts the proxies.
func (b *broker) proxy() {
	b.proxies = make(map[string]*netproxy.Proxy)
	for _, addr := range b.addrs {
		b.proxies[addr] = netproxy.Start(b.t, addr)
	}
}

// restart ends the cluster and starts another at its addresses, which is
// empty unless kfake.DataDir was an option.
func (b *broker) restart() {
	b.t.Helper()
	b.stop()
	b.again()
}

func (b *broker) stop() {
	b.cluster.Close()
	b.cut() // as the kernel would
}

// again starts a cluster at the addresses of one that was stopped.
func (b *broker) again() {
	b.t.Helper()
	var ports []int
	for _, addr := range b.addrs {
		_, port, _ := net.SplitHostPort(addr)
		n, _ := strconv.Atoi(port)
		ports = append(ports, n)
	}
	b.start(kfake.NumBrokers(brokers), kfake.Ports(ports...))
}

// cut resets every connection.
func (b *broker) cut() {
	for _, p := range b.proxies {
		p.Cut()
	}
}

// blackhole makes every link swallow all, or no longer.
func (b *broker) blackhole(on bool) {
	for _, p := range b.proxies {
		p.Blackhole(on)
	}
}

// dialer leads a client to the proxies.
func (b *broker) dialer() kgo.Opt {
	return kgo.Dialer(func(ctx context.Context, network, addr string) (net.Conn, error) {
		if p := b.proxies[addr]; p != nil {
			addr = p.Addr
		}
		var d net.Dialer
		return d.DialContext(ctx, network, addr)
	})
}

// open opens a Bus that the caller closes.
func (b *broker) open(options kafkabus.Options) *kafkabus.Bus {
	b.t.Helper()
	options.Opts = append(options.Opts, b.dialer())
	bus, err := kafkabus.New(b.seeds(), &options)
	if err != nil {
		b.t.Fatal(err)
	}
	return bus
}

func (b *broker) seeds() string {
	seeds := ""
	for i, addr := range b.addrs {
		if i > 0 {
			seeds += ","
		}
		seeds += addr
	}
	return seeds
}

// client returns a client of the cluster that ends with the test.
func (b *broker) client() *kgo.Client {
	b.t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(b.addrs...))
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(client.Close)
	return client
}
