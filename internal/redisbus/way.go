package redisbus

import (
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/heraldgo/herald/internal/resp"
)

// A way says how the topics of a partition travel: on which channels, by which
// commands.
type way struct {
	prefix  string // begins the topics' channels
	probe   string // the channel that the Bus proves itself with
	moved   string // the channel of notices of new masters, used if there are Sentinels
	sharded bool   // SPUBLISH and SSUBSCRIBE, of Redis 7
	slot    string // on a Cluster: a key of the slot whose master carries all
}

// singleWay returns how all topics travel on a single Redis. Channels have the
// database in their names, because all databases share them. No topic has the same
// channel as probes or notices.
func singleWay(prefix string, db int) *way {
	own := databaseOf(prefix, db)
	return &way{prefix: own + ":", probe: own + "!" + rand.Text(), moved: own + "!moved"}
}

func databaseOf(prefix string, db int) string { return prefix + ":{" + strconv.Itoa(db) + "}" }

// A Shard says how the topics of a partition travel, for a script that publishes to
// them.
type Shard struct {
	Topics  string // begins their channels
	Slot    string // on a Cluster: a key of the slot whose master carries all
	Sharded bool   // by SPUBLISH
}

// Shards returns the Shard of each partition. redisconn.ShardOf returns the index of
// a topic's.
func (b *Bus) Shards() []Shard {
	shards := make([]Shard, len(b.parts))
	for i, p := range b.parts {
		shards[i] = Shard{p.way.prefix, p.way.slot, p.way.sharded}
	}
	return shards
}

// clusterWay returns how the topics of a partition travel on a Cluster. Their slot is
// that of the tag: only the first braces in a name count, so those in a topic do not
// matter.
func clusterWay(prefix, tag string, sharded bool) *way {
	slot := prefix + ":{" + tag + "}"
	return &way{prefix: slot + ":", probe: slot + "!" + rand.Text(), slot: slot, sharded: sharded}
}

// needs tells what a Redis user must be allowed.
func (w *way) needs(prefix string) string {
	switch {
	case w.sharded:
		return fmt.Sprintf("allow SPUBLISH, SSUBSCRIBE, SUNSUBSCRIBE, CLUSTER INFO, CLUSTER SLOTS, GET and SET, with the channels and keys %s:{* "+
			"(ACL SETUSER <user> +spublish +ssubscribe +sunsubscribe +cluster|info +cluster|slots +get +set &%s:{* ~%s:{*)", prefix, prefix, prefix)
	case w.slot != "":
		return fmt.Sprintf("allow PUBLISH, SUBSCRIBE, UNSUBSCRIBE, CLUSTER INFO, CLUSTER SLOTS, EXISTS, GET and SET, with the channels and keys %s:{* "+
			"(ACL SETUSER <user> +publish +subscribe +unsubscribe +cluster|info +cluster|slots +exists +get +set &%s:{* ~%s:{*)", prefix, prefix, prefix)
	}
	own := strings.TrimSuffix(w.prefix, ":")
	return fmt.Sprintf("allow PUBLISH, SUBSCRIBE and UNSUBSCRIBE, with the channels %s* "+
		"(ACL SETUSER <user> +publish +subscribe +unsubscribe &%s*)", own, own)
}

// A query is a list of commands, and their encoding.
type query struct {
	bytes    []byte
	commands []command
}

func (q *query) add(kind commandKind, words ...string) {
	q.bytes = resp.AppendCommand(q.bytes, len(words))
	for _, word := range words {
		q.bytes = resp.AppendWord(q.bytes, word)
	}
	q.commands = append(q.commands, command{kind: kind})
}

// addServer asks whether a link may lead to this server. Any user may call HELLO, and
// its reply tells the role (https://redis.io/docs/latest/commands/hello). It names no
// version: the session has spoken RESP3 from its start.
func (w *way) addServer(q *query) {
	q.add(commandHello, "HELLO")
	if w.slot != "" {
		q.add(commandInfo, "CLUSTER", "INFO")
	}
}

// addOwner asks whether the node has the slot, by a command that leaves nothing
// behind.
func (w *way) addOwner(q *query) {
	switch {
	case w.sharded:
		q.add(commandOwner, "SPUBLISH", w.probe, "")
	case w.slot != "":
		q.add(commandOwner, "EXISTS", w.slot)
	}
}

// addStill asks, behind packets, whether the node still has the slot. That it took
// the packets does not show it: a replica takes an SPUBLISH, and any node a PUBLISH.
func (w *way) addStill(q *query) {
	switch {
	case w.sharded:
		q.add(commandStill, "GET", w.slot)
	case w.slot != "":
		q.add(commandStill, "EXISTS", w.slot)
	}
}

// greeting is what a new link asks.
func (w *way) greeting() *query {
	q := new(query)
	w.addServer(q)
	w.addOwner(q)
	return q
}

// addSubscription subscribes to channels, or unsubscribes.
func (w *way) addSubscription(q *query, kind commandKind, channels []string) {
	name := w.command("SUBSCRIBE")
	if kind == commandUnsubscribe {
		name = w.command("UNSUBSCRIBE")
	}
	for chunk := range slices.Chunk(channels, maxNames) {
		q.bytes = resp.AppendCommand(q.bytes, 1+len(chunk))
		q.bytes = resp.AppendWord(q.bytes, name)
		for _, channel := range chunk {
			q.bytes = resp.AppendWord(q.bytes, channel)
		}
		q.commands = append(q.commands, command{kind: kind, channels: chunk})
	}
}

// addProof asks the subscribed link everything that shows whether it is well.
// SSUBSCRIBE itself shows whether the node has the slot.
func (w *way) addProof(q *query) {
	w.addServer(q)
	if !w.sharded {
		w.addOwner(q)
	}
	w.addSubscription(q, commandSubscribe, []string{w.probe})
}

// command returns the name of a command on this way.
func (w *way) command(name string) string {
	if w.sharded {
		return "S" + name
	}
	return name
}

// errIsolated is why a master of a Cluster is left.
var errIsolated = errors.New("herald: this master of the Redis Cluster does not see most of the others, which may have replaced it")

// isolated reports whether a node that answered CLUSTER INFO is cut off from most
// masters. Then it takes slots for failing (PFAIL) that it alone does not reach. A
// master that most others do not reach either is FAIL, and concerns its own slots
// only (https://redis.io/docs/latest/commands/cluster-info).
func isolated(info string) bool {
	return strings.Contains(info, "cluster_state:fail") && !strings.Contains(info, "cluster_slots_pfail:0\r")
}
