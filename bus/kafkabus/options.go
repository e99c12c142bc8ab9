package kafkabus

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/heraldgo/herald"
)

// Options configures a [Bus]. The zero value of each field has the default
// that its comment gives.
type Options struct {
	// Topic is the Kafka topic that carries every packet. Services that share
	// a Kafka cluster use one each. Default: the one that New's URL names, or
	// "herald".
	Topic string

	// Create is how New creates the topic if there is none. Default nil: a
	// missing topic is an error.
	Create *Create

	// ProbeInterval and ProbeTimeout are those of [herald.Config]: every partition is
	// proved to carry packets once an interval, and a link is dropped if an answer
	// does not come within ProbeTimeout. No packet is published later than about a
	// ProbeTimeout after the call of Publish. A negative interval switches off all
	// proofs but those after a fault. ProbeTimeout is at least 1 s. Defaults 1 s, 5
	// s.
	ProbeInterval time.Duration
	ProbeTimeout  time.Duration

	// Opts are further options of the Kafka client, for SASL, TLS, a client id, a
	// rack, or compression. Those that the Bus' promises depend on are overridden.
	Opts []kgo.Opt
}

// Create describes a topic to create.
type Create struct {
	// Partitions share the work between the brokers. Default 12.
	Partitions int32

	// ReplicationFactor is how many brokers keep each partition. Default: the
	// cluster's own default, which Kafka takes from 2.4 on.
	ReplicationFactor int16

	// Configs are configurations of the topic. Defaults: retention.ms 3600000 and
	// segment.ms 600000, because the log need only outlive the longest interruption
	// that is to lose nothing; cleanup.policy delete; max.message.bytes 2097152, room
	// for a message of herald.Config.MaxSendSize and its envelope.
	Configs map[string]string
}

const (
	defaultTopic      = "herald"
	defaultPartitions = 12
	proofsOff         = 24 * time.Hour
)

// validTopic is what Kafka allows, but for "." and "..".
var validTopic = regexp.MustCompile(`^[a-zA-Z0-9._-]{1,249}$`)

// withDefaults returns a copy with every field set; o may be nil. topic is
// that of New's URL, or "".
func (o *Options) withDefaults(topic string) (Options, error) {
	var c Options
	if o != nil {
		c = *o
	}
	var faults []error
	fault := func(field string, value any, rule string) {
		faults = append(faults, fmt.Errorf("%w: %s: %v: %s", herald.ErrInvalid, field, value, rule))
	}
	if topic != "" && c.Topic != "" && topic != c.Topic {
		fault("Options.Topic", c.Topic, fmt.Sprintf("must be left empty, or that of the URL, %s", topic))
	}
	c.Topic = cmp.Or(topic, c.Topic, defaultTopic)
	c.ProbeInterval = cmp.Or(c.ProbeInterval, time.Second)
	c.ProbeTimeout = cmp.Or(c.ProbeTimeout, 5*time.Second)
	if c.ProbeInterval < 0 {
		c.ProbeInterval = proofsOff
	}
	if !validTopic.MatchString(c.Topic) || c.Topic == "." || c.Topic == ".." {
		fault("Options.Topic", fmt.Sprintf("%q", c.Topic), "must be 1 to 249 of a-z, A-Z, 0-9, '.', '_', '-'")
	}
	if c.ProbeInterval < time.Millisecond {
		fault("Options.ProbeInterval", c.ProbeInterval, "must be at least 1ms, or negative for no proofs")
	}
	if c.ProbeTimeout < time.Second || c.ProbeTimeout > time.Minute {
		fault("Options.ProbeTimeout", c.ProbeTimeout, "must be 1s to 1m")
	}
	if c.Create != nil {
		if c.Create.Partitions < 0 {
			fault("Options.Create.Partitions", c.Create.Partitions, "must not be negative")
		}
		if c.Create.ReplicationFactor < 0 {
			fault("Options.Create.ReplicationFactor", c.Create.ReplicationFactor, "must not be negative")
		}
		c.Create = c.Create.withDefaults()
	}
	return c, errors.Join(faults...)
}

func (c *Create) withDefaults() *Create {
	configs := map[string]string{
		"cleanup.policy":    "delete",
		"retention.ms":      "3600000",
		"segment.ms":        "600000",
		"max.message.bytes": "2097152",
	}
	maps.Copy(configs, c.Configs)
	return &Create{
		Partitions:        cmp.Or(c.Partitions, defaultPartitions),
		ReplicationFactor: cmp.Or(c.ReplicationFactor, -1),
		Configs:           configs,
	}
}

// parseURL splits what New is given into the brokers' addresses and the topic, which
// may be missing. Errors do not quote what could be a password.
func parseURL(url string) (seeds []string, topic string, err error) {
	invalid := func(rule string) error {
		return fmt.Errorf("%w: the brokers' addresses: %s", herald.ErrInvalid, rule)
	}
	rest, isURL := strings.CutPrefix(url, "kafka://")
	if isURL {
		rest, topic, _ = strings.Cut(rest, "/")
	}
	if strings.ContainsAny(rest+topic, "@/?") {
		return nil, "", invalid("must be host:port,host:port or kafka://host:port,host:port/topic; credentials go into Options.Opts")
	}
	for seed := range strings.SplitSeq(rest, ",") {
		if _, port, err := net.SplitHostPort(seed); err != nil || port == "" {
			return nil, "", invalid(fmt.Sprintf("%q: must be host:port", seed))
		}
		seeds = append(seeds, seed)
	}
	return seeds, topic, nil
}

// maxFetch bounds the bytes of an answer to a fetch, and so, with one answer
// for each broker in the client and one on its way, the client's memory. An
// answer has at least one batch, which may be larger.
const maxFetch = 8 << 20

// maxFetchWait is how long a broker keeps a fetch for which there is nothing. A
// partition that comes to a broker waits for the fetch that is under way.
const maxFetchWait = 500 * time.Millisecond

// newClients is held while a client is made: kgo.NewClient writes to the codecs
// that options of compression hold, and clients are made of the same options.
var newClients sync.Mutex

func newClient(opts ...kgo.Opt) (*kgo.Client, error) {
	newClients.Lock()
	defer newClients.Unlock()
	return kgo.NewClient(opts...)
}

// clientOpts returns the options of a Kafka client: what the user may change,
// the user's, and what must be as it is.
func (o *Options) clientOpts(seeds []string, must ...kgo.Opt) []kgo.Opt {
	return slices.Concat(
		[]kgo.Opt{
			kgo.ClientID("herald"),
			kgo.DialTimeout(o.ProbeTimeout),
			kgo.ProducerBatchCompression(kgo.NoCompression()),
			kgo.FetchMaxBytes(maxFetch),
			kgo.FetchMaxPartitionBytes(1 << 20),
			kgo.FetchMaxWait(maxFetchWait),
			kgo.DisableClientMetrics(),
		},
		o.Opts,
		[]kgo.Opt{
			kgo.SeedBrokers(seeds...),
			kgo.RequestTimeoutOverhead(o.ProbeTimeout),
			kgo.RequestRetries(3),
			kgo.RetryTimeout(o.ProbeTimeout),
			kgo.RetryBackoffFn(backoff),
			kgo.MetadataMinAge(250 * time.Millisecond),
			kgo.MetadataMaxAge(time.Minute),
		},
		must,
	)
}

const (
	backoffStart = 50 * time.Millisecond
	backoffMax   = time.Second
)

// backoff returns how long to wait after a number of failures: 50 ms and up
// to a second, with jitter.
func backoff(failures int) time.Duration {
	d := min(backoffStart<<min(max(failures-1, 0), 10), backoffMax)
	return d/2 + rand.N(d/2)
}
