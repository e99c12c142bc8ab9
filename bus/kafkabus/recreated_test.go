package kafkabus

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/heraldgo/herald"
)

// However late a Bus surveys a topic that was created again, it hands
// nothing over twice.
func TestRecreatedIsSeenLate(t *testing.T) {
	for name, test := range map[string]struct {
		opts []kgo.Opt
		all  bool // of the new topic is handed over
	}{
		"topics fetched by id":   {all: true},
		"topics fetched by name": {opts: []kgo.Opt{kgo.MaxVersions(kversion.V2_8_0())}},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
			if err != nil {
				t.Fatal(err)
			}
			defer cluster.Close()
			produce := recreate(t, cluster)
			b := openUnproved(t, cluster, test.opts)
			b.reader.subscribe([]string{"topic"}, true)
			got := collect(t, b)

			n := 0
			next := func() int { produce(ctx, n); n++; return n - 1 }
			for range 10 {
				next()
			}
			got.await(ctx, 9)
			produce = recreate(t, cluster)
			// Until a session has met the new topic.
			for i := next(); !got.has(i) && !errors.Is(b.state.health(), errRecreated); i = next() {
				pause(ctx, t)
			}
			for b.prove(ctx, time.Second) != nil {
				pause(ctx, t)
			}
			got.await(ctx, next())
			for i := range n {
				if times := got.count(i); times > 1 || times == 0 && (test.all || i < 10) {
					t.Errorf("packet %d of %d arrived %d times", i, n, times)
				}
			}
		})
	}
}

// recreate deletes the topic, if there is one, and creates it. It returns
// what produces packets to it.
func recreate(t *testing.T, cluster *kfake.Cluster) func(ctx context.Context, i int) {
	t.Helper()
	if cluster.TopicInfo(defaultTopic) != nil {
		if err := cluster.DeleteTopic(defaultTopic); err != nil {
			t.Fatal(err)
		}
	}
	if err := cluster.CreateTopic(defaultTopic, 1, nil); err != nil {
		t.Fatal(err)
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.DefaultProduceTopic(defaultTopic))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return func(ctx context.Context, i int) {
		t.Helper()
		record := &kgo.Record{Key: []byte("topic"), Value: strconv.AppendInt(nil, int64(i), 10)}
		if err := client.ProduceSync(ctx, record).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
}

// openUnproved opens a Bus that proves, and so surveys, only when it is told.
func openUnproved(t *testing.T, cluster *kfake.Cluster, opts []kgo.Opt) *Bus {
	t.Helper()
	seeds := cluster.ListenAddrs()
	options, err := (&Options{ProbeTimeout: time.Second, Opts: opts}).withDefaults("")
	if err != nil {
		t.Fatal(err)
	}
	b := &Bus{topic: options.Topic, inbox: newInbox()}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	t.Cleanup(func() { b.Close() })
	b.state = &state{inbox: b.inbox, wake: make(chan struct{}, 1), proved: time.Now()}
	if b.pub, err = newPublisher(b.ctx, &options, seeds); err != nil {
		t.Fatal(err)
	}
	if b.reader, err = newReader(&options, seeds, b); err != nil {
		t.Fatal(err)
	}
	if err := b.open(&options); err != nil {
		t.Fatal(err)
	}
	return b
}

// pause waits a little.
func pause(ctx context.Context, t *testing.T) {
	t.Helper()
	select {
	case <-time.After(10 * time.Millisecond):
	case <-ctx.Done():
		t.Fatal(ctx.Err())
	}
}

// A collection is of packets that arrived.
type collection struct {
	t *testing.T

	mu    sync.Mutex
	times map[string]int // of each packet
}

// collect collects what arrives until the test ends.
func collect(t *testing.T, b *Bus) *collection {
	c := &collection{t: t, times: make(map[string]int)}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		for {
			e, err := b.Receive(ctx)
			if err != nil {
				return
			}
			if e.Kind == herald.EventPacket {
				c.mu.Lock()
				c.times[string(e.Packet.Data)]++
				c.mu.Unlock()
			}
		}
	})
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	return c
}

// count returns how many times packet i arrived.
func (c *collection) count(i int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.times[strconv.Itoa(i)]
}

func (c *collection) has(i int) bool { return c.count(i) > 0 }

// await waits for packet i.
func (c *collection) await(ctx context.Context, i int) {
	c.t.Helper()
	for !c.has(i) {
		pause(ctx, c.t)
	}
}
