package kafkabus_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/bus/kafkabus"
	"github.com/heraldgo/herald/heraldtest"
	"github.com/heraldgo/herald/internal/test/hubtest"
)

// The same tests against a real Kafka, that $KAFKA_BROKERS names: addresses
// without TLS and authentication. They create topics and delete them.
// Debian has no Kafka, so there is usually none on the machine of these tests.
func TestRealKafka(t *testing.T) {
	seeds := os.Getenv("KAFKA_BROKERS")
	if seeds == "" {
		const message = "NOT RUN: no real Kafka: KAFKA_BROKERS is not set, so kafkabus was only tried against kfake, Kafka's imitation in franz-go"
		fmt.Fprintln(os.Stderr, message)
		t.Skip(message)
	}
	t.Run("Bus", func(t *testing.T) {
		heraldtest.TestBus(t, func(t testing.TB) heraldtest.BusNetwork {
			b := connectReal(t, seeds)
			options, other := b.topic(), b.topic()
			return heraldtest.BusNetwork{
				Open:      func() herald.Bus { return b.open(options) },
				Interrupt: b.cut,
				Other:     func() herald.Bus { return b.open(other) },
			}
		})
	})
	t.Run("Hubs", func(t *testing.T) {
		hubtest.Test(t, func(t testing.TB) hubtest.Broker {
			b := connectReal(t, seeds)
			options := b.topic()
			return hubtest.Broker{
				NewBus:  func() (herald.Bus, error) { return b.open(options), nil },
				Restart: b.cut, // it is not ours to stop
			}
		})
	})
}

// connectReal starts a proxy for each broker of a real cluster.
func connectReal(t testing.TB, seeds string) *broker {
	t.Helper()
	b := &broker{t: t, addrs: strings.Split(seeds, ",")}
	resp, err := kmsg.NewPtrMetadataRequest().RequestWith(t.Context(), b.client())
	if err != nil {
		t.Fatal(err)
	}
	for _, known := range resp.Brokers {
		b.addrs = append(b.addrs, net.JoinHostPort(known.Host, strconv.Itoa(int(known.Port))))
	}
	b.proxy()
	return b
}

// topic returns the options of a topic that is deleted when the test ends.
func (b *broker) topic() kafkabus.Options {
	options := patient
	options.Topic = fmt.Sprintf("herald-test-%d", rand.Uint64())
	options.Create = &kafkabus.Create{Partitions: partitions}
	client := b.client()
	b.t.Cleanup(func() {
		req := kmsg.NewPtrDeleteTopicsRequest()
		rt := kmsg.NewDeleteTopicsRequestTopic()
		rt.Topic = kmsg.StringPtr(options.Topic)
		req.Topics, req.TopicNames = append(req.Topics, rt), []string{options.Topic}
		if _, err := req.RequestWith(context.Background(), client); err != nil {
			b.t.Logf("topic %s is left behind: %v", options.Topic, err)
		}
	})
	return options
}
