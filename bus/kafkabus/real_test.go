package kafkabus_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/bus/kafkabus"
	"github.com/heraldgo/herald/heraldtest"
	"github.com/heraldgo/herald/internal/test/hubtest"
	"github.com/heraldgo/herald/internal/test/servertest"
)

// The same tests against a real Kafka, one broker, which they share: each has a
// topic of its own.
func TestRealKafka(t *testing.T) {
	kafka := startKafka(t)
	t.Run("Bus", func(t *testing.T) {
		heraldtest.TestBus(t, func(t testing.TB) heraldtest.BusNetwork {
			b := behindProxies(t, kafka)
			options, other := b.topic(patient), b.topic(patient)
			return heraldtest.BusNetwork{
				Open:      func() herald.Bus { return b.open(options) },
				Interrupt: b.cut,
				Other:     func() herald.Bus { return b.open(other) },
			}
		})
	})
	t.Run("Hubs", func(t *testing.T) {
		hubtest.Test(t, func(t testing.TB) hubtest.Broker { return realHubBroker(t, kafka) })
	})
	t.Run("NothingIsLost", func(t *testing.T) {
		for name, fault := range realFaults {
			t.Run(name, func(t *testing.T) {
				r := newRealRig(t, kafka)
				fault(r)
				r.AwaitGap()
				if lost := r.check(); lost > 0 {
					t.Errorf("%d packets were lost that Kafka had", lost)
				}
			})
		}
	})
	t.Run("LossIsReported", func(t *testing.T) {
		for name, fault := range realLosses {
			t.Run(name, func(t *testing.T) {
				r := newRealRig(t, kafka)
				fault(r)
				r.AwaitGap()
				r.check()
			})
		}
	})
}

// BenchmarkRealNodes is BenchmarkNodes on a real Kafka.
func BenchmarkRealNodes(b *testing.B) {
	hubtest.BenchmarkNodes(b, func(t testing.TB) hubtest.Broker { return realHubBroker(t, startKafka(t)) })
}

// startKafka starts a Kafka that soon removes what a topic need not keep.
func startKafka(t testing.TB) *servertest.Server {
	return servertest.Kafka(t, "log.initial.task.delay.ms=100", "log.retention.check.interval.ms=100")
}

func realHubBroker(t testing.TB, kafka *servertest.Server) hubtest.Broker {
	b := behindProxies(t, kafka)
	options := b.topic(patient)
	return hubtest.Broker{
		NewBus: func() (herald.Bus, error) { return kafkabus.New(b.seeds(), &options) },
		Restart: func() {
			kafka.Kill()
			kafka.Restart()
		},
		PIDs: func() []int { return []int{kafka.PID()} },
	}
}

// behindProxies starts a proxy for a real broker.
func behindProxies(t testing.TB, kafka *servertest.Server) *broker {
	b := &broker{t: t, addrs: []string{kafka.Addr}}
	b.proxy()
	return b
}

// topic returns options with a topic of the test's own, which New creates and
// which is deleted when the test ends.
func (b *broker) topic(options kafkabus.Options) kafkabus.Options {
	options.Topic = fmt.Sprintf("herald-test-%d", rand.Uint64())
	options.Create = &kafkabus.Create{Partitions: partitions}
	b.t.Cleanup(func() {
		if err := b.deleteTopic(options.Topic); err != nil {
			b.t.Logf("topic %s is left behind: %v", options.Topic, err)
		}
	})
	return options
}

func (b *broker) deleteTopic(topic string) error {
	req := kmsg.NewPtrDeleteTopicsRequest()
	rt := kmsg.NewDeleteTopicsRequestTopic()
	rt.Topic = &topic
	req.Topics, req.TopicNames = append(req.Topics, rt), []string{topic}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	resp, err := req.RequestWith(ctx, b.client())
	if err != nil {
		return err
	}
	return kerr.ErrorForCode(resp.Topics[0].ErrorCode)
}

// A realRig is a rig on a real Kafka.
type realRig struct {
	*rig
	kafka *servertest.Server
	topic string
	admin *kgo.Client
}

func newRealRig(t *testing.T, kafka *servertest.Server) *realRig {
	b := behindProxies(t, kafka)
	options := b.topic(quick)
	return &realRig{startRig(t, b, options), kafka, options.Topic, b.client()}
}

// realFaults lose nothing.
var realFaults = map[string]func(r *realRig){
	"cut": func(r *realRig) { r.cut() },
	"black hole": func(r *realRig) {
		r.blackhole(true)
		r.AwaitGap()
		r.blackhole(false)
	},
	"killed and restarted": func(r *realRig) {
		r.kafka.Kill()
		r.AwaitGap()
		r.kafka.Restart()
	},
	"stopped and restarted": func(r *realRig) {
		r.kafka.Stop()
		r.AwaitGap()
		r.kafka.Restart()
	},
	"paused": func(r *realRig) {
		r.kafka.Pause()
		r.AwaitGap()
		r.kafka.Continue()
	},
}

// realLosses may lose something.
var realLosses = map[string]func(r *realRig){
	"topic deleted and created again": func(r *realRig) {
		r.must(r.deleteTopic(r.topic))
		r.AwaitGap()
		r.Await("bad health", func() bool { return r.to.Health() != nil })
		r.createTopic()
	},
	"topic created again at once": func(r *realRig) {
		r.must(r.deleteTopic(r.topic))
		r.createTopic()
	},
	"retention": func(r *realRig) {
		r.blackhole(true)
		r.AwaitGap()
		read := r.offsets(kafkabus.AtLatest)
		r.keep(time.Second)
		r.Await("the removal of what was not read", func() bool {
			for i, first := range r.offsets(kafkabus.AtEarliest) {
				if first <= read[i] {
					return false
				}
			}
			return true
		})
		r.keep(time.Hour)
		r.blackhole(false)
		if r.Check().Lost == 0 {
			r.Error("nothing was lost, so this tries nothing")
		}
	},
}

// createTopic creates a topic that was deleted.
func (r *realRig) createTopic() {
	r.T.Helper()
	r.must(kafkabus.CreateTopic(r.Context(), r.admin, r.topic, &kafkabus.Create{Partitions: partitions, ReplicationFactor: -1}))
}

// offsets returns one end of the log of each partition.
func (r *realRig) offsets(at int64) []int64 {
	r.T.Helper()
	offsets, failed := kafkabus.ListOffsets(r.Context(), r.admin, r.topic, partitions, at)
	if len(failed) > 0 {
		r.Fatal(failed)
	}
	return offsets
}

// keep sets for how long the topic keeps records. A segment goes as a whole, and
// not before its newest record, so two must follow each other in that time.
func (r *realRig) keep(d time.Duration) {
	r.T.Helper()
	req := kmsg.NewPtrIncrementalAlterConfigsRequest()
	resource := kmsg.NewIncrementalAlterConfigsRequestResource()
	resource.ResourceType, resource.ResourceName = kmsg.ConfigResourceTypeTopic, r.topic
	for name, value := range map[string]time.Duration{"retention.ms": d, "segment.ms": d / 2} {
		config := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
		config.Name, config.Value = name, kmsg.StringPtr(fmt.Sprint(value.Milliseconds()))
		resource.Configs = append(resource.Configs, config)
	}
	req.Resources = append(req.Resources, resource)
	resp, err := req.RequestWith(r.Context(), r.admin)
	r.must(err)
	r.must(kerr.ErrorForCode(resp.Resources[0].ErrorCode))
}
