package redislog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald/internal/errs"
	"github.com/heraldgo/herald/internal/history"
	"github.com/heraldgo/herald/internal/history/packet"
	"github.com/heraldgo/herald/internal/history/store"
	"github.com/heraldgo/herald/internal/test/redistest"
)

// A clusterRig has the Log of one partition of a Cluster, on its master.
type clusterRig struct {
	t       *testing.T
	cluster *redistest.Cluster
	tag     string
	slot    int
	log     *Log
	end     history.Point
	segment uint64
}

func newClusterRig(t *testing.T, cluster *redistest.Cluster, tag string) *clusterRig {
	r := &clusterRig{t: t, cluster: cluster, tag: "{" + tag + "}"}
	r.slot = cluster.Slot(r.tag)
	r.log = r.on(cluster.MasterOf(r.slot))
	end, err := r.log.Fence(t.Context(), history.Point{}, 1)
	if err != nil {
		t.Fatal(err)
	}
	r.end = end
	return r
}

// on returns a Log that asks one node only.
func (r *clusterRig) on(node *redistest.Node) *Log {
	limits := store.Limits{Segment: 4, Age: 60_000, Bytes: 1 << 20}
	return New(Config{Client: node.Admin(), Limits: limits, Keys: r.tag + ":", Topics: r.tag + "c:", Fences: r.tag + "f", Sharded: true, Cluster: true})
}

// append appends a message to a topic, trying until the log takes it.
func (r *clusterRig) append(topic string) (err error) {
	r.t.Helper()
	for range 3 {
		var reply store.Reply
		reply, err = r.log.Append(r.t.Context(), r.end, r.segment, []store.Draft{{Topics: []string{topic}, Body: []byte(begins + "body")}})
		if err != nil {
			return err
		}
		if r.end = reply.End; reply.Outcome == store.Taken {
			return nil
		}
		if reply.Outcome == store.WrongSegment {
			r.segment = reply.Segment
		}
	}
	r.t.Fatal("it was not taken")
	return nil
}

// hear subscribes to channels on the Log's node, and returns a function that
// returns what comes.
func (r *clusterRig) hear(channels ...string) func() string {
	r.t.Helper()
	heard := r.log.config.Client.(*redis.Client).SSubscribe(r.t.Context(), channels...)
	r.t.Cleanup(func() { heard.Close() })
	for range channels {
		if _, err := heard.Receive(r.t.Context()); err != nil {
			r.t.Fatal(err)
		}
	}
	return func() string {
		ctx, cancel := context.WithTimeout(r.t.Context(), patience)
		defer cancel()
		m, err := heard.ReceiveMessage(ctx)
		if err != nil {
			r.t.Fatal(err)
		}
		return m.Payload
	}
}

// dump returns everything that all nodes have of the slot.
func (r *clusterRig) dump() string {
	var b strings.Builder
	for _, n := range r.cluster.Nodes {
		keys, err := n.Admin().Keys(r.t.Context(), r.tag+"*").Result()
		if err != nil {
			r.t.Fatal(err)
		}
		slices.Sort(keys)
		for _, key := range keys {
			// A node that has moved the key away, or does not own it yet, names
			// another node instead. It is enough that the key is listed.
			dump, _ := n.Admin().Dump(r.t.Context(), key).Result()
			fmt.Fprintf(&b, "%s %s %q\n", n.ID, key, dump)
		}
	}
	return b.String()
}

// All calls work on a Cluster, and packets are published in the shard.
func TestCluster(t *testing.T) {
	cluster := redistest.StartCluster(t, 3, 0)
	for _, tag := range []string{"0", "66", "48"} {
		r := newClusterRig(t, cluster, tag)
		next := r.hear(r.tag+"c:a", r.tag+"f")
		for range 6 {
			if err := r.append("a"); err != nil {
				t.Fatal(err)
			}
			if p, err := packet.Parse("a", []byte(next())); err != nil || !p.Kept || p.At != r.end {
				t.Errorf("it heard %+v, %v", p, err)
			}
		}
		if _, err := r.log.Fence(t.Context(), r.end, 5); err != nil {
			t.Error(err)
		}
		if end, n, err := packet.ParseFence([]byte(next())); err != nil || n != 5 || end != r.end {
			t.Errorf("it heard the fence %d at %v, %v", n, end, err)
		}
		s, err := r.log.Survey(t.Context(), r.end, history.Point{Epoch: r.end.Epoch}, []string{"a"}, 9)
		if err != nil || !s.Whole || len(s.Offsets) != 6 {
			t.Errorf("%+v, %v", s, err)
		}
		if x, ok, err := r.log.Read(t.Context(), r.end, r.end.Epoch, s.Offsets, nil); len(x.Entries) != 6 || !ok || err != nil {
			t.Errorf("%v, %v", x, err)
		}
		if err := errors.Join(r.log.Forget(t.Context(), r.end, []string{"a"}), r.log.Trim(t.Context(), r.end)); err != nil {
			t.Error(err)
		}
		if err := r.log.Publish(t.Context(), []store.Draft{{Topics: []string{"a"}, Body: []byte(begins + "alone")}}); err != nil {
			t.Error(err)
		}
		if p, err := packet.Parse("a", []byte(next())); err != nil || p.Kept || string(p.Body) != begins+"alone" {
			t.Errorf("it heard %+v, %v", p, err)
		}
	}
}

// While a slot moves, each call is either done completely by the server that it
// asks, or not at all, and its error leaves no doubt about that.
func TestMigration(t *testing.T) {
	cluster := redistest.StartCluster(t, 3, 0)
	r := newClusterRig(t, cluster, "0")
	for range 5 {
		if err := r.append("a"); err != nil {
			t.Fatal(err)
		}
	}
	from := cluster.MasterOf(r.slot)
	to := other(cluster, from)
	there := r.on(to)
	cluster.BeginMigration(r.slot, to)
	r.move(from, to, "s:0")
	if err := r.append("a"); err != nil {
		t.Errorf("all that it needs is still here: %v", err)
	}
	for r.end.Offset < 8 { // up to the end of a segment, because a guess also names the next one
		if err := r.append("a"); err != nil {
			t.Fatal(err)
		}
	}
	guesser := r.on(from)
	guesser.config.Cluster, guesser.end = false, r.end
	for l, want := range map[*Log]string{r.log: "", guesser: "TRYAGAIN "} {
		s, err := l.Survey(t.Context(), r.end, history.Point{Epoch: r.end.Epoch, Offset: 4}, []string{"a"}, 9)
		if want == "" && (err != nil || !s.Whole || len(s.Offsets) != 4) || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%+v, %v, want %q", s, err, want)
		}
	}
	for _, moved := range []string{"t", "s:1"} {
		r.move(from, to, moved)
		for where, l := range map[string]*Log{"the old one": r.log, "the new one": there} {
			r.refused("after "+moved+", on "+where, l)
		}
	}
	cluster.Migrate(r.slot, to) // moves the rest
	if _, err := r.log.Fence(t.Context(), r.end, 1); err == nil || !strings.Contains(err.Error(), "MOVED ") {
		t.Errorf("the old one: %v", err)
	}
	old := r.end
	r.log = there
	if err := r.append("a"); err != nil {
		t.Error(err)
	}
	s, err := r.log.Survey(t.Context(), r.end, old, []string{"a"}, 9)
	if err != nil || !s.Whole || s.End.Epoch != old.Epoch || len(s.Offsets) != 1 {
		t.Errorf("on the new one: %+v, %v", s, err)
	}
}

// If a log comes from a server that is still a master, its epoch goes on. Otherwise
// that server may have been replaced before, and the log may lack what it took
// last.
func TestMoved(t *testing.T) {
	cluster := redistest.StartCluster(t, 3, 1)
	r := newClusterRig(t, cluster, "0")
	if err := r.append("a"); err != nil {
		t.Fatal(err)
	}
	from, to, replica := cluster.MasterOf(r.slot), cluster.Nodes[1], cluster.Nodes[3]
	replaced := cluster.Nodes[0] // this one has the replica
	epoch := r.end.Epoch
	goesOn := func(what, home string, want bool) {
		t.Helper()
		cluster.Migrate(r.slot, to)
		r.log = r.on(to)
		if home != "" {
			r.setHome(to, home)
		}
		end, err := r.log.Fence(t.Context(), history.Point{}, 1)
		if err != nil || (end.Epoch == epoch) != want {
			t.Errorf("from %s: the epoch is %x, and was %x, %v", what, end.Epoch, epoch, err)
		}
		epoch = end.Epoch
		from, to = to, from
	}
	goesOn("a master", "", true)
	goesOn("a master, and back", "", true)
	goesOn("another master", replaced.ID, true)
	goesOn("a replica", replica.ID, false)
	goesOn("nobody knows where", strings.Repeat("0", 40), false)
	goesOn("itself", to.ID, false)
	replaced.Kill()
	cluster.AwaitFailover(0, replaced)
	goesOn("a master that was replaced", replaced.ID, false)
	goesOn("a master", "", true)
	if err := r.log.config.Client.(*redis.Client).ZRem(t.Context(), r.log.table(), r.home(from)).Err(); err != nil {
		t.Fatal(err)
	}
	goesOn("a node that did not tell which it is", "", false)
}

// home returns the member of the table that says which node its server is.
func (r *clusterRig) home(on *redistest.Node) string {
	r.t.Helper()
	by := redis.ZRangeArgs{Key: r.log.table(), Start: "-0.5", Stop: "-0.5", ByScore: true}
	members, err := on.Admin().ZRangeArgs(r.t.Context(), by).Result()
	if err != nil || len(members) != 1 {
		r.t.Fatalf("%q, %v", members, err)
	}
	return members[0]
}

// setHome makes the table say that its server is another node.
func (r *clusterRig) setHome(on *redistest.Node, id string) {
	r.t.Helper()
	old := r.home(on)
	server, _, _ := strings.Cut(old, " ")
	_, err := on.Admin().Pipelined(r.t.Context(), func(pipe redis.Pipeliner) error {
		pipe.ZRem(r.t.Context(), r.log.table(), old)
		pipe.ZAdd(r.t.Context(), r.log.table(), redis.Z{Score: -0.5, Member: server + " " + id})
		return nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *clusterRig) move(from, to *redistest.Node, key string) {
	r.t.Helper()
	i := strings.LastIndexByte(to.Addr, ':')
	args := []any{"MIGRATE", to.Addr[:i], to.Addr[i+1:], r.log.config.Keys + key, 0, 5000}
	if err := from.Admin().Do(r.t.Context(), args...).Err(); err != nil {
		r.t.Fatal(err)
	}
}

// refused checks that an append has no effect if the keys of the log are apart, or
// elsewhere.
func (r *clusterRig) refused(what string, l *Log) {
	r.t.Helper()
	before := r.dump()
	for _, segment := range []uint64{1, 2} {
		_, err := l.Append(r.t.Context(), r.end, segment, []store.Draft{{Topics: []string{"a"}, Body: []byte(begins + "body")}})
		if text := fmt.Sprint(err); errors.Is(err, errs.Unknown) ||
			!strings.Contains(text, "MOVED ") && !strings.Contains(text, "ASK ") && !strings.Contains(text, "TRYAGAIN ") {
			r.t.Errorf("%s, segment %d: %v", what, segment, err)
		}
	}
	if after := r.dump(); after != before {
		r.t.Errorf("%s: there is\n%s\nand there was\n%s", what, after, before)
	}
}

// other returns a master that is not n.
func other(cluster *redistest.Cluster, n *redistest.Node) *redistest.Node {
	for _, o := range cluster.Nodes {
		if o != n {
			return o
		}
	}
	return nil
}
