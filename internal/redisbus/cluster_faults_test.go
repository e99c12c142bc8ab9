package redisbus_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/test/bustest"
	"github.com/heraldgo/herald/internal/test/redistest"
)

// A clusterRig has a Bus that publishes to topics of all partitions, and one that
// receives them.
type clusterRig struct {
	*testing.T
	*bustest.Recorder
	cluster  *redistest.Cluster
	from, to *herald.RedisBus
	topics   []string
	stop     func() // stops publishing and receiving

	mu     sync.Mutex
	stream []publishedTo // packet i has i as its data
}

type publishedTo struct {
	topic string
	bustest.Published
}

func newClusterRig(t *testing.T, cluster *redistest.Cluster) *clusterRig {
	client := cluster.Client()
	r := &clusterRig{T: t, cluster: cluster, from: openCluster(t, client, ""), to: openCluster(t, client, "")}
	for i := range 64 {
		r.topics = append(r.topics, fmt.Sprint("topic ", i))
	}
	if err := r.to.Subscribe(t.Context(), r.topics...); err != nil {
		t.Fatal(err)
	}
	r.Recorder = bustest.Record(t, r.to)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for i := range 8 {
		running.Go(func() { r.publish(ctx, r.topics[i*8:i*8+8]) })
	}
	r.stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
		r.Stop()
	})
	t.Cleanup(r.stop)
	r.awaitAll()
	return r
}

func (r *clusterRig) publish(ctx context.Context, topics []string) {
	pace := time.NewTicker(2 * time.Millisecond)
	defer pace.Stop()
	for i := 0; ctx.Err() == nil; i++ {
		<-pace.C
		p := publishedTo{topic: topics[i%len(topics)], Published: bustest.Published{Began: time.Now()}}
		r.mu.Lock()
		n := len(r.stream)
		r.stream = append(r.stream, p)
		r.mu.Unlock()
		// Its own context: a packet that ctx cut short would be unknown.
		p.Err = r.from.Publish(context.Background(), herald.Packet{Topic: p.topic, Data: strconv.AppendInt(nil, int64(n), 10)})
		p.Ended = time.Now()
		r.mu.Lock()
		r.stream[n] = p
		r.mu.Unlock()
	}
}

// awaitAll waits until every topic has delivered a packet that was published after
// the call, and all is well.
func (r *clusterRig) awaitAll() {
	r.Helper()
	start := time.Now()
	eventually(r, "packets of every topic", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		seen := map[string]bool{}
		events := r.Events()
		for i := len(events) - 1; i >= 0 && events[i].At.After(start); i-- {
			if e := events[i]; e.Kind == herald.EventPacket {
				if r.stream[bustest.Number(e.Packet)].Began.After(start) {
					seen[e.Packet.Topic] = true
				}
			}
		}
		return len(seen) == len(r.topics)
	})
	eventually(r, "good health", func() bool { return r.from.Health() == nil && r.to.Health() == nil })
}

// A topicGap is a gap of one topic.
type topicGap struct{ since, until time.Time }

// check ends the load and checks that each lost packet lies in a gap of its topic.
// It returns the topics that had a gap.
func (r *clusterRig) check() (gone []string) {
	r.Helper()
	r.awaitAll()
	r.stop()
	got, last := r.arrivals()
	gaps := r.gaps()
	failed, unknown, lost := 0, 0, 0
	for n, p := range r.stream {
		inside := slices.ContainsFunc(gaps[p.topic], func(g topicGap) bool {
			return !p.Ended.Before(g.since) && (g.until.IsZero() || !p.Began.After(g.until))
		})
		switch {
		case got[n] > 1:
			r.Errorf("packet %d arrived %d times", n, got[n])
		case errors.Is(p.Err, herald.ErrUnknown):
			unknown++
		case p.Err != nil:
			failed++
			if got[n] > 0 {
				r.Errorf("packet %d arrived, though it was not taken: %v", n, p.Err)
			}
		case got[n] == 0 && inside:
			lost++
		case got[n] == 0 && n < last[p.topic]: // the packets behind the last one may have been on their way
			r.Errorf("packet %d of %q, published at %v, was lost outside of the gaps %v", n, p.topic, p.Began, gaps[p.topic])
		}
	}
	r.Logf("%d packets: %d failed, %d unknown, %d lost in gaps of %d topics; the longest time without service was %v",
		len(r.stream), failed, unknown, lost, len(gaps), r.silence(got).Round(time.Millisecond))
	return slices.Sorted(maps.Keys(gaps))
}

// arrivals returns how often each packet has arrived, and the last packet of each
// topic.
func (r *clusterRig) arrivals() (got []int, last map[string]int) {
	got, last = make([]int, len(r.stream)), make(map[string]int)
	for _, e := range r.Events() {
		if e.Kind != herald.EventPacket {
			continue
		}
		n := bustest.Number(e.Packet)
		got[n]++
		if r.stream[n].topic != e.Packet.Topic {
			r.Errorf("packet %d of topic %q arrived under %q", n, r.stream[n].topic, e.Packet.Topic)
		}
		// A packet may arrive late if its Publish returned ErrUnknown.
		if n < last[e.Packet.Topic] && !errors.Is(r.stream[n].Err, herald.ErrUnknown) {
			r.Errorf("packet %d of topic %q came after packet %d", n, e.Packet.Topic, last[e.Packet.Topic])
		}
		last[e.Packet.Topic] = max(n, last[e.Packet.Topic])
	}
	return got, last
}

// gaps returns the gaps of each topic that has any.
func (r *clusterRig) gaps() map[string][]topicGap {
	gaps := map[string][]topicGap{}
	open := map[string]bool{}
	for _, e := range r.Events() {
		topics := e.Topics
		if topics == nil {
			topics = r.topics
		}
		switch e.Kind {
		case herald.EventDown:
			r.Logf("down: %d topics since %v before, %v", len(topics), e.At.Sub(e.Since).Round(time.Millisecond), e.Err)
			for _, topic := range topics {
				if open[topic] {
					r.Errorf("a second gap of %q", topic)
				}
				open[topic] = true
				gaps[topic] = append(gaps[topic], topicGap{since: e.Since})
			}
		case herald.EventRestored:
			for _, topic := range topics {
				if open[topic] {
					gaps[topic][len(gaps[topic])-1].until = e.At
				}
				open[topic] = false
			}
		}
	}
	return gaps
}

// silence returns the longest time between the publishing of two packets of the
// same topic that arrived.
func (r *clusterRig) silence(got []int) (longest time.Duration) {
	last := map[string]time.Time{}
	for n, p := range r.stream {
		if got[n] == 0 {
			continue
		}
		if before, ok := last[p.topic]; ok {
			longest = max(longest, p.Began.Sub(before))
		}
		last[p.topic] = p.Began
	}
	return longest
}

// topicsAt returns the topics that have subscribers on a node and whose channels
// match a pattern.
func (r *clusterRig) topicsAt(n *redistest.Node, pattern string) (topics []string) {
	r.Helper()
	channels, err := n.Admin().PubSubShardChannels(r.Context(), pattern).Result()
	if err != nil {
		r.Fatal(err)
	}
	for _, c := range channels {
		if _, topic, ok := strings.Cut(c, "}:"); ok {
			topics = append(topics, topic)
		}
	}
	slices.Sort(topics)
	return topics
}

// other returns a master that is not n.
func other(cluster *redistest.Cluster, n *redistest.Node) *redistest.Node {
	for _, o := range cluster.Nodes[:3] {
		if o != n {
			return o
		}
	}
	return nil
}

// If a slot moves, that is a gap of the topics of its partition only, and no
// Publish fails.
func TestRedisBusClusterMigration(t *testing.T) {
	cluster := redistest.StartCluster(t, 3, 0, redistest.NeverFailed...)
	r := newClusterRig(t, cluster)
	const tag = "{19}"
	slot := cluster.Slot(tag)
	from := cluster.MasterOf(slot)
	topics := r.topicsAt(from, "herald:"+tag+":*")
	if len(topics) == 0 || len(topics) == len(r.topics) {
		t.Fatalf("topics of the partition: %q", topics)
	}
	for _, to := range []*redistest.Node{other(cluster, from), from} {
		cluster.Migrate(slot, to)
		r.awaitAll()
		if got := r.topicsAt(to, "herald:"+tag+":*"); !slices.Equal(got, topics) {
			t.Errorf("after the migration the new master has the topics %q, want %q", got, topics)
		}
	}
	if gone := r.check(); !slices.Equal(gone, topics) {
		t.Errorf("gaps of the topics %q, want %q", gone, topics)
	}
	for _, p := range r.stream {
		if p.Err != nil {
			t.Errorf("a packet failed: %v", p.Err)
			break
		}
	}
}

// If a master dies, hangs or hands over, that is a gap of the topics of its
// partitions only.
func TestRedisBusClusterFailover(t *testing.T) {
	for name, fail := range map[string]func(r *clusterRig, master, replica *redistest.Node){
		"killed": func(r *clusterRig, master, _ *redistest.Node) { master.Kill() },
		"killed and restarted": func(r *clusterRig, master, _ *redistest.Node) {
			master.Kill()
			r.cluster.AwaitFailover(r.cluster.Slot("{19}"), master)
			master.Restart()
		},
		"hangs": func(r *clusterRig, master, _ *redistest.Node) {
			master.Pause()
			r.cluster.AwaitFailover(r.cluster.Slot("{19}"), master)
			master.Continue()
		},
		"hands over": func(r *clusterRig, _, replica *redistest.Node) {
			if err := replica.Admin().ClusterFailover(r.Context()).Err(); err != nil {
				r.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			cluster := redistest.StartCluster(t, 3, 3)
			r := newClusterRig(t, cluster)
			slot := cluster.Slot("{19}")
			master := cluster.MasterOf(slot)
			replica := cluster.ReplicaOf(master)
			topics := r.topicsAt(master, "*")
			fail(r, master, replica)
			cluster.AwaitFailover(slot, master)
			eventually(t, "the topics at the new master", func() bool { return slices.Equal(r.topicsAt(replica, "*"), topics) })
			if gone := r.check(); !slices.Equal(gone, topics) {
				t.Errorf("gaps of the topics %q, want %q", gone, topics)
			}
		})
	}
}

// A replica accepts a packet and passes it on to its master, where it may come
// after later packets. So Publish must not return nil.
func TestRedisBusClusterTakenByReplica(t *testing.T) {
	cluster := redistest.StartCluster(t, 3, 3)
	slot := cluster.Slot("{19}")
	master := cluster.MasterOf(slot)
	replica := cluster.ReplicaOf(master)
	bus, err := herald.NewRedisBus(cluster.Client(), &herald.RedisOptions{ProbeInterval: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer bus.Close()
	r := &clusterRig{T: t, cluster: cluster}
	for i := range 64 {
		r.topics = append(r.topics, fmt.Sprint("topic ", i))
	}
	if err := bus.Subscribe(t.Context(), r.topics...); err != nil {
		t.Fatal(err)
	}
	packet := herald.Packet{Topic: r.topicsAt(master, "herald:{19}:*")[0]}
	if err := bus.Publish(t.Context(), packet); err != nil {
		t.Fatal(err)
	}

	if err := replica.Admin().Do(t.Context(), "CLUSTER", "FAILOVER", "TAKEOVER").Err(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a master that is a replica", func() bool {
		role, err := master.Admin().Do(t.Context(), "ROLE").Slice()
		return err == nil && role[0] == "slave"
	})
	if err := bus.Publish(t.Context(), packet); !errors.Is(err, herald.ErrUnknown) {
		t.Errorf("a packet that a replica took: %v, want ErrUnknown", err)
	}
	if err := bus.Publish(t.Context(), packet); err != nil {
		t.Errorf("the next packet: %v", err)
	}
}

// A master that is cut off from the others may have been replaced without knowing
// it. A node that is left with it is told.
func TestRedisBusClusterIsolated(t *testing.T) {
	cluster := redistest.StartCluster(t, 3, 0)
	r := newClusterRig(t, cluster)
	master := cluster.Nodes[0]
	topics := r.topicsAt(master, "*")
	cluster.Nodes[1].Pause()
	cluster.Nodes[2].Pause()
	eventually(t, "gaps of all topics", func() bool {
		gone := map[string]bool{}
		for _, e := range r.Events() {
			if e.Kind == herald.EventDown {
				for _, topic := range e.Topics {
					gone[topic] = true
				}
			}
		}
		return len(gone) == len(r.topics)
	})
	eventually(t, "ErrBusDown of Publish to a master that is cut off", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return slices.ContainsFunc(r.stream, func(p publishedTo) bool {
			return slices.Contains(topics, p.topic) && errors.Is(p.Err, herald.ErrBusDown) && !errors.Is(p.Err, herald.ErrUnknown)
		})
	})
	cluster.Nodes[1].Continue()
	cluster.Nodes[2].Continue()
	r.check()
}
