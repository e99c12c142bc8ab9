package heraldprom

import (
	"maps"
	"slices"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/heraldgo/herald"
)

var (
	nodeInfo  = newDesc("node_info", "The node's id, which is new with each start.", "node")
	unhealthy = newDesc("unhealthy", "Whether the node is unfit to take connections and to send, by what is the matter.", "reason")

	handshakes = newDesc("handshakes_total", "Handshakes by outcome: accepted, or why the request or the new connection was refused.", "outcome")
)

func newDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("herald_"+name, help, labels, nil)
}

// outcomes are those of handshakes, except "error", which has the rest.
var outcomes = []struct {
	name  string
	count func(*herald.Stats) uint64
}{
	{"accepted", func(s *herald.Stats) uint64 { return s.Accepted }},
	{"bad_request", func(s *herald.Stats) uint64 { return s.BadRequests }},
	{"forbidden_origin", func(s *herald.Stats) uint64 { return s.Forbidden }},
	{"unauthorized", func(s *herald.Stats) uint64 { return s.Unauthorized }},
	{"bad_identity", func(s *herald.Stats) uint64 { return s.BadIdentities }},
	{"denied", func(s *herald.Stats) uint64 { return s.Denied }},
	{"address_limit", func(s *herald.Stats) uint64 { return s.AddrLimited }},
	{"user_limit", func(s *herald.Stats) uint64 { return s.UserLimited }},
	{"node_limit", func(s *herald.Stats) uint64 { return s.Crowded }},
	{"not_ready", func(s *herald.Stats) uint64 { return s.NotReady }},
}

// A family is a metric, with a value for each set of its labels.
type family struct {
	desc   *prometheus.Desc
	kind   prometheus.ValueType
	values func(*herald.Stats) []value
}

type value struct {
	value  float64
	labels []string
}

type number interface {
	~int | ~int64 | ~uint64 | ~float64
}

func gauge[T number](name, help string, f func(*herald.Stats) T) family {
	return family{newDesc(name, help), prometheus.GaugeValue, one(f)}
}

func counter[T number](name, help string, f func(*herald.Stats) T) family {
	return family{newDesc(name, help), prometheus.CounterValue, one(f)}
}

func one[T number](f func(*herald.Stats) T) func(*herald.Stats) []value {
	return func(s *herald.Stats) []value { return []value{{value: float64(f(s))}} }
}

// by is a counter with one label.
func by(name, help, label string, values func(*herald.Stats) map[string]uint64) family {
	return family{newDesc(name, help, label), prometheus.CounterValue, func(s *herald.Stats) (all []value) {
		for l, n := range values(s) {
			all = append(all, value{float64(n), []string{l}})
		}
		return all
	}}
}

type counts = map[string]uint64

var families = []family{
	// What is here now.

	gauge("connections", "Connections.", func(s *herald.Stats) int { return s.Conns }),
	gauge("users", "Different users that are connected.", func(s *herald.Stats) int { return s.Users }),
	gauge("topics", "Topics that have connections.", func(s *herald.Stats) int { return s.Topics }),
	gauge("handshakes_under_way", "Handshakes under way.", func(s *herald.Stats) int { return s.Handshakes }),
	gauge("refused_sockets", "Open sockets that were upgraded only to be refused.", func(s *herald.Stats) int { return s.Refused }),
	gauge("queued_messages", "Messages that wait to be written.", func(s *herald.Stats) int { return s.Queued }),
	gauge("queued_bytes", "Bytes that wait to be written; what waits for several connections counts for each.", func(s *herald.Stats) int64 { return s.QueuedBytes }),
	gauge("longest_queue_messages", "Messages in the longest queue.", func(s *herald.Stats) int { return s.LongestQueue }),
	gauge("longest_write_seconds", "How long the oldest write that waits for its client has waited.", func(s *herald.Stats) float64 { return s.LongestWrite.Seconds() }),
	gauge("oldest_message_seconds", "How long the oldest message that waits to be written has waited, about.", func(s *herald.Stats) float64 { return s.OldestQueued.Seconds() }),

	// Connections.

	counter("disconnections_total", "Connections that have gone.", func(s *herald.Stats) uint64 { return s.Disconnected }),
	{newDesc("closes_total", "Connections that have gone, by who closed them; with the code if it was this side.", "by", "code"), prometheus.CounterValue, closes},
	by("cut_total", "Connections that were cut, by reason: the client took too little, was silent, sent too much, or sent on while it was closed.", "reason", func(s *herald.Stats) counts {
		return counts{"slow": s.TooSlow, "silent": s.Silent, "too_fast": s.TooFast, "overran": s.Overran}
	}),
	counter("over_budget_total", "Connections that were cut as slow because all queues together were above MaxQueuedBytes.", func(s *herald.Stats) uint64 { return s.OverBudget }),
	counter("refused_joins_total", "Connections that joined no group of a call, for they would have had too many.", func(s *herald.Stats) uint64 { return s.RefusedJoins }),

	// Messages.

	counter("client_messages_total", "Messages from clients.", func(s *herald.Stats) uint64 { return s.MessagesReceived }),
	counter("received_bytes_total", "Bytes from clients, without handshakes.", func(s *herald.Stats) uint64 { return s.BytesReceived }),
	counter("sent_total", "Sends and Delivers on this node that the Bus has taken.", func(s *herald.Stats) uint64 { return s.Sent }),
	counter("send_errors_total", "Sends and Delivers on this node that returned an error of the Bus.", func(s *herald.Stats) uint64 { return s.SendErrors }),
	counter("delivered_total", "Messages put into connections' queues.", func(s *herald.Stats) uint64 { return s.Delivered }),
	counter("written_total", "Messages that the kernel has taken for clients.", func(s *herald.Stats) uint64 { return s.Written }),
	counter("written_bytes_total", "Bytes that the kernel has taken for clients, without handshakes.", func(s *herald.Stats) uint64 { return s.BytesWritten }),
	by("dropped_total", "Messages that a queue gave up or had no room for, by reason.", "reason", func(s *herald.Stats) counts {
		return counts{"full": s.DroppedFull, "over_budget": s.DroppedBudget, "closed": s.DroppedClosed, "volatile": s.DroppedVolatile}
	}),
	counter("conflated_total", "Messages that gave up their place in a queue to a newer one of their key.", func(s *herald.Stats) uint64 { return s.Conflated }),
	by("to_nobody_total", "Messages that came to this node for nobody: for a topic whose last connection here has left, or for a connection that has gone.", "target", func(s *herald.Stats) counts {
		return counts{"topic": s.Lingering, "connection": s.Gone}
	}),
	by("deliveries_total", "Sessions that a Deliver on this node was for, by outcome.", "outcome", func(s *herald.Stats) counts {
		return counts{"received": s.DeliveriesReceived, "missed": s.DeliveriesMissed}
	}),
	counter("resumes_begun_total", "Connections of clients that came back to where they were.", func(s *herald.Stats) uint64 { return s.Resumes }),
	by("resumes_total", "Resumes that have ended: whole, or with something that may be missing.", "outcome", func(s *herald.Stats) counts {
		return counts{"whole": s.ResumesWhole, "in_part": s.ResumesInPart}
	}),

	// The Bus.

	gauge("open_gaps", "Gaps that are open: messages may be getting lost now.", func(s *herald.Stats) int { return s.OpenGaps }),
	gauge("open_gap_seconds", "Since when the first open gap began.", func(s *herald.Stats) float64 { return s.OpenGapFor.Seconds() }),
	counter("gaps_total", "Gaps in which messages may have been lost.", func(s *herald.Stats) uint64 { return s.Gaps }),
	counter("gap_seconds_total", "The time of all gaps.", func(s *herald.Stats) float64 { return s.GapFor.Seconds() }),
	counter("bus_resets_total", "Times that this node found its Bus deaf.", func(s *herald.Stats) uint64 { return s.Resets }),
	gauge("bus_proof_age_seconds", "Since when nothing has proved that the Bus works.", func(s *herald.Stats) float64 { return s.ProofAge.Seconds() }),
	counter("bus_packets_total", "Packets from the Bus for topics of this node.", func(s *herald.Stats) uint64 { return s.Received }),
	counter("bus_foreign_packets_total", "Packets from the Bus for topics that this node does not follow.", func(s *herald.Stats) uint64 { return s.Foreign }),
	counter("bus_malformed_packets_total", "Packets from the Bus that could not be understood.", func(s *herald.Stats) uint64 { return s.Malformed }),
	counter("bus_strangers_total", "Heartbeats left out because too many nodes that are not listed sent some.", func(s *herald.Stats) uint64 { return s.Strangers }),
	counter("refused_calls_total", "Joins, Leaves and Disconnects that were too large for this node, or too many.", func(s *herald.Stats) uint64 { return s.CallsRefused }),

	// The Registry.

	gauge("lease_age_seconds", "Since when this node's lease has not been renewed.", func(s *herald.Stats) float64 { return s.LeaseAge.Seconds() }),
	counter("registry_errors_total", "Calls of the Registry that returned an error.", func(s *herald.Stats) uint64 { return s.RegistryErrors }),
	counter("registry_mended_total", "Sessions that the Registry had lost and that were put back.", func(s *herald.Stats) uint64 { return s.Mended }),
	counter("registry_unreadable_total", "Keys and values under herald's prefix in Redis that are none of herald's.", func(s *herald.Stats) uint64 { return s.Unreadable }),

	// The program.

	counter("panics_total", "Panics in callbacks.", func(s *herald.Stats) uint64 { return s.Panics }),
	counter("log_lines_left_out_total", "Lines that the log did not get, because there were too many of their kind.", func(s *herald.Stats) uint64 { return s.LogsLeftOut }),
	{newDesc("callbacks_running", "Calls of a callback that have not returned.", "callback"), prometheus.GaugeValue, callbacks(func(s herald.CallbackStats) float64 { return float64(s.Running) })},
	{newDesc("callback_longest_seconds", "How long the oldest call of a callback that has not returned has run.", "callback"), prometheus.GaugeValue, callbacks(func(s herald.CallbackStats) float64 { return s.Longest.Seconds() })},
}

func closes(s *herald.Stats) []value {
	all := []value{
		{float64(s.ClosedByClient), []string{"client", ""}},
		{float64(s.Lost), []string{"network", ""}},
	}
	for code, n := range s.Closed {
		all = append(all, value{float64(n), []string{"server", strconv.Itoa(int(code))}})
	}
	return all
}

func callbacks(f func(herald.CallbackStats) float64) func(*herald.Stats) []value {
	return func(s *herald.Stats) (all []value) {
		for name, c := range s.Callbacks {
			all = append(all, value{f(c), []string{name}})
		}
		return all
	}
}

// A histogramFamily is a histogram, with one for each set of its labels.
type histogramFamily struct {
	desc   *prometheus.Desc
	values func(*herald.Stats) []histogramValue
}

type histogramValue struct {
	histogram herald.Histogram
	labels    []*dto.LabelPair
}

var histograms = []histogramFamily{
	{newDesc("lag_seconds", "How long a message took from Send until the kernel had taken it for a client, of one message after each heartbeat."),
		func(s *herald.Stats) []histogramValue { return []histogramValue{{histogram: s.Lag}} }},
	{newDesc("bus_round_trip_seconds", "How long heartbeats took through the Bus and back."),
		func(s *herald.Stats) []histogramValue { return []histogramValue{{histogram: s.BusRoundTrips}} }},
	{newDesc("registry_call_seconds", "What calls of the Registry took."),
		func(s *herald.Stats) []histogramValue { return []histogramValue{{histogram: s.RegistryCalls}} }},
	{newDesc("callback_seconds", "What calls of a callback took that have returned.", "callback"),
		func(s *herald.Stats) (all []histogramValue) {
			for _, name := range slices.Sorted(maps.Keys(s.Callbacks)) {
				all = append(all, histogramValue{s.Callbacks[name].Calls, []*dto.LabelPair{{Name: ptr("callback"), Value: &name}}})
			}
			return all
		}},
}
