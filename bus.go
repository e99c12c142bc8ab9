package herald

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/heraldgo/herald/internal/history/driver"
	"github.com/heraldgo/herald/internal/history/store"
	"github.com/heraldgo/herald/internal/redisconn"
)

// A Packet is one message on its way between nodes.
type Packet struct {
	// Topic is any string of at most 200 bytes, with any bytes in it.
	Topic string

	// Data is an envelope that the Hub encoded. A Bus does not look into it.
	Data []byte
}

// EventKind says what an [Event] reports.
type EventKind uint8

const (
	// EventPacket: a Packet arrived.
	EventPacket EventKind = iota + 1

	// EventDown: from now on, and since Event.Since, packets of
	// Event.Topics may be lost.
	EventDown

	// EventRestored: what is published to Event.Topics from now on arrives.
	EventRestored
)

// An Event is what [Bus.Receive] returns.
type Event struct {
	Kind   EventKind // which of the fields below count
	Packet Packet    // EventPacket only

	// EventDown and EventRestored only.

	Topics []string  // the topics concerned; nil means all
	Since  time.Time // EventDown only: no packet published before it was lost
	Err    error     // EventDown only: why

	hidden bool // EventDown only: the log of a Retention cannot tell what was lost
}

// A Bus carries packets between nodes. Each Hub has a Bus value of its own,
// and closes it at the end of Shutdown. A Bus keeps the promises numbered
// here; heraldtest.TestBus tries to break each.
//
//  1. Delivery: a packet published to a topic reaches, once, every Bus that
//     is subscribed to the topic, the publisher's own included. A Bus may
//     hand over packets of topics that nobody subscribed to.
//  2. Subscribe returns when the broker has confirmed. What is published
//     anywhere after that arrives. After an error it is unknown whether
//     the topics are subscribed, until the next Subscribe or Unsubscribe
//     that names them. Subscribing again is no error and no second copy.
//  3. Unsubscribe returns when the broker has confirmed. Unsubscribing from
//     what is not subscribed is no error.
//  4. Order: packets of one topic that one Bus published one after the other
//     arrive in that order, and every subscriber sees the packets of a topic
//     in the same order. A packet whose Publish returned ErrUnknown may come
//     late, behind packets that were published after it. The Bus gave up the
//     link: that keeps what had not left this machine from ever arriving, but
//     not what was on its way to the broker. The documentation of the Bus says
//     if the broker does not give one order to the packets of several publishers
//     (core NATS), or gives none while topics move (Kafka).
//  5. Topics are exact: they may have any bytes, none of which is a wildcard or
//     a separator. A Bus sees nothing of another prefix or database.
//  6. Publish returns nil when the broker has taken every packet. This says
//     nothing about the subscribers: if the broker loses a packet afterwards,
//     promise 9 applies. If errors.Is(err, ErrUnknown), some of the packets may
//     have been taken. Any other error says that none was; it is ErrBusDown if
//     the broker could not be reached or does not serve us now. A Bus never
//     publishes again what may have been published: there are no duplicates.
//  7. Ownership: Publish keeps no slice after it has returned. The Data that
//     Receive hands over is the caller's, and is never changed.
//  8. Blocking: Publish, Subscribe, Unsubscribe and Receive return when ctx
//     is done, with its error in the chain. They may be given many packets or
//     topics at once; given none, Publish and Subscribe do nothing. The ctx
//     that a Hub gives Publish may end later than the Send that it is for,
//     but not later than the SendTimeout of that Send.
//  9. Loss is never silent: every packet that may have been lost lies
//     between an EventDown and an EventRestored for its topic, and was
//     published after Event.Since. EventDown comes when the Bus notices the loss.
//     That may be some probes after the loss, but it is before any packet of the
//     new link. EventRestored comes after all subscriptions are confirmed again
//     and a packet of the Bus' own has come back, because some brokers confirm a
//     subscription and then deliver nothing. If a link breaks several times in
//     quick succession, one EventDown and one EventRestored may cover them all.
//     If the Bus has to drop packets because Receive is called too slowly, it
//     reports them in the same way. No Bus can report what a broker hides from
//     all its clients. Examples are NATS servers that no longer hear each other
//     (the Hub notices by its heartbeats), and one topic that an MQTT broker
//     denies at QoS 0. The documentation of a Bus says what its broker hides.
//  10. The Bus reconnects by itself, without giving up, with jittered backoff,
//     and subscribes again to all it was subscribed to.
//  11. Memory is bounded, and the broker is never blocked for ever, whatever the
//     caller of Receive does.
//  12. Reset drops the connections to the broker and makes new ones, between an
//     EventDown and an EventRestored. It does not wait for them.
//  13. Concurrency: all methods may be called at the same time, except
//     Receive, which has one caller.
//  14. Close makes every call, under way or later, return ErrClosed, leaves
//     no goroutine, and may be called twice.
//  15. One receiver: while one Receive waits, another one takes nothing and
//     returns ErrReceiving at once.
//  16. Health returns nil if, as far as the Bus knows, it can publish and gets
//     what it is subscribed to. Otherwise it returns the reason. It returns an
//     error from the time when the Bus notices that the broker cannot be reached
//     until all is restored. After Close it returns ErrClosed. It returns at
//     once and does no I/O.
//
// A Bus does not log.
type Bus interface {
	Publish(ctx context.Context, packets ...Packet) error
	Subscribe(ctx context.Context, topics ...string) error
	Unsubscribe(ctx context.Context, topics ...string) error
	Receive(ctx context.Context) (Event, error)
	Reset()
	Health() error
	Close() error
}

// busesInUse has the Buses of all Hubs of the process, each from New until the
// Hub closes it.
var busesInUse sync.Map

// claimBus takes the Bus for a Hub, and returns false if another Hub has it. If two Hubs
// received from one Bus, each would get a part of the messages, and chance would decide
// whose Receive is refused.
func claimBus(b Bus) bool {
	if !reflect.ValueOf(b).Comparable() {
		return true // it cannot be a key of busesInUse
	}
	_, taken := busesInUse.LoadOrStore(b, nil)
	return !taken
}

func releaseBus(b Bus) {
	if reflect.ValueOf(b).Comparable() {
		busesInUse.Delete(b)
	}
}

// A keeper is a Bus that can keep what is published, so that Config.Retention may
// be set.
type keeper interface {
	Bus

	// keep opens the node's way to the logs, whose fences come to the node on topics
	// that begin with fences. It must not be called twice.
	keep(ctx context.Context, fences string, limits store.Limits) (*logs, error)
}

// logs are a node's way to what a Bus keeps.
type logs struct {
	parts  []driver.Log // by partition
	fences []string     // the topic of the node's fences in each
	key    []byte       // the cluster's, to sign ids with
	renew  func()       // the Bus has lost a server: look for the logs anew
	close  func()
}

// partition returns the partition that a topic belongs to.
func (l *logs) partition(topic string) int { return redisconn.ShardOf(topic, len(l.parts)) }

// partitions returns the partitions that topics belong to, each once.
func (l *logs) partitions(topics []string) (partitions []int) {
	for _, topic := range topics {
		if i := l.partition(topic); !slices.Contains(partitions, i) {
			partitions = append(partitions, i)
		}
	}
	return partitions
}

// fenceTopics returns a topic in each of n partitions. All begin with name.
func fenceTopics(name string, n int) []string {
	topics := make([]string, n)
	for i, missing := 0, n; missing > 0; i++ {
		topic := name + "." + strconv.Itoa(i)
		if at := &topics[redisconn.ShardOf(topic, n)]; *at == "" {
			*at = topic
			missing--
		}
	}
	return topics
}

// checkParts checks Redis, Bus and Registry.
func (c *Config) checkParts(fault func(field string, value any, rule string)) {
	if c.Redis != nil && c.Bus != nil && c.Registry != nil {
		fault("Redis", "a client", "is of no use beside both Bus and Registry")
	}
	if c.Redis == nil && (c.Bus == nil) != (c.Registry == nil) {
		fault("Redis", "nil:", "must be set if only one of Bus and Registry is, to give the other")
	}
	for _, f := range []struct {
		field string
		value any
	}{{"Redis", c.Redis}, {"Bus", c.Bus}, {"Registry", c.Registry}} {
		if v := reflect.ValueOf(f.value); v.Kind() == reflect.Pointer && v.IsNil() {
			fault(f.field, fmt.Sprintf("a nil %T:", f.value), "must not be a nil pointer; leave the field out for the default")
		}
	}
}
