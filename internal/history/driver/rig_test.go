package driver_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/heraldgo/herald/internal/follow"
	"github.com/heraldgo/herald/internal/history"
	"github.com/heraldgo/herald/internal/history/device"
	"github.com/heraldgo/herald/internal/history/driver"
	"github.com/heraldgo/herald/internal/history/node"
	"github.com/heraldgo/herald/internal/history/packet"
	"github.com/heraldgo/herald/internal/history/store"
	"github.com/heraldgo/herald/internal/test/memlog"
	"github.com/heraldgo/herald/internal/wake"
)

const (
	partitions = 2
	queueSize  = 16
)

// partitionOf returns the partition of a topic, which its last letter names.
func partitionOf(topic string) int { return int(topic[len(topic)-1] - '0') }

// body returns a body into which package packet can put a place. number returns the
// number that a body was made of, with or without a place.
func body(n int) []byte {
	return binary.BigEndian.AppendUint32(packet.Body([]byte{1, 1, 0}), uint32(n))
}
func number(body []byte) int { return int(binary.BigEndian.Uint32(body[len(body)-4:])) }

// A hub is one node: a Driver, its links, and an index.
type hub struct {
	driver   *driver.Driver
	links    [partitions]link
	follower *follow.Follower
	stop     func()

	mu    sync.Mutex
	index map[string][]*conn
	had   []string // delivered packets in order, as topic and number
}

// A link is a node's connection to a partition: a memlog.Link, or one to a Redis.
type link interface {
	driver.Log
	driver.Bus
	Up()
	Cut(arrive int)
	Break(memlog.Faults)
	Deafen()
	Close()
}

func newHub(t testing.TB, servers [partitions]*memlog.Server, edit func(*driver.Config)) *hub {
	return newHubOn(t, func(partition int, push func(driver.Event)) link { return servers[partition].Link(push) }, edit)
}

func newHubOn(t testing.TB, connect func(partition int, push func(driver.Event)) link, edit func(*driver.Config)) *hub {
	h := &hub{index: make(map[string][]*conn)}
	config := driver.Config{
		Hub:       h,
		Feed:      node.Limits{Held: 32, Recent: 32, Bytes: 1 << 20, Page: 8, Survey: 512},
		Device:    device.Limits{Survey: 512, Page: 4, Live: 4},
		Retention: time.Minute, Rate: 1000, Burst: 1000, Bytes: 1 << 10,
	}
	for i := range h.links {
		h.links[i] = connect(i, func(e driver.Event) { h.driver.Push(i, e) })
		config.Partitions = append(config.Partitions, driver.Partition{Log: h.links[i], Bus: h.links[i]})
	}
	if edit != nil {
		edit(&config)
	}
	h.driver = driver.New(config)
	for _, l := range h.links {
		l.Up()
	}
	h.follower = follow.New(splitter{h}, 50*time.Millisecond, 5*time.Second)
	ctx, cancel := context.WithCancel(context.Background())
	var runs sync.WaitGroup
	runs.Go(func() { h.follower.Run(ctx) })
	h.stop = sync.OnceFunc(func() {
		cancel()
		h.driver.Close()
		runs.Wait()
		for _, l := range h.links {
			l.Close()
		}
	})
	t.Cleanup(h.stop)
	return h
}

// A splitter is the follow.Bus of a hub.
type splitter struct{ *hub }

func (s splitter) each(topics []string, do func(partition int, topics []string) error) error {
	for i := range partitions {
		mine := slices.DeleteFunc(slices.Clone(topics), func(t string) bool { return partitionOf(t) != i })
		if len(mine) == 0 {
			continue
		}
		if err := do(i, mine); err != nil {
			return err
		}
	}
	return nil
}

func (s splitter) Subscribe(ctx context.Context, topics ...string) error {
	return s.each(topics, func(i int, topics []string) error { return s.driver.Subscribe(ctx, i, topics...) })
}

func (s splitter) Unsubscribe(ctx context.Context, topics ...string) error {
	return s.each(topics, func(i int, topics []string) error { return s.driver.Unsubscribe(ctx, i, topics...) })
}

// Deliver implements driver.Hub.
func (h *hub) Deliver(partition int, p history.Packet) {
	h.mu.Lock()
	h.had = append(h.had, fmt.Sprint(p.Topic, " ", number(p.Body)))
	conns := slices.Clone(h.index[p.Topic])
	h.mu.Unlock()
	for _, c := range conns {
		c.session.Take(partition, p, c.Open(p.Body))
	}
}

// Gap implements driver.Hub.
func (h *hub) Gap(int, time.Time) {}

func (h *hub) delivered() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.had)
}

// A conn is one connection.
type conn struct {
	hub     *hub
	session *driver.Session
	steps   *atomic.Int64
	wake    wake.Signal

	mu     sync.Mutex
	topics []string
	frames []stamped
	ended  bool
}

// A stamped frame has the step at which it was put into the queue.
type stamped struct {
	device.Frame
	step int64
}

// begin makes a connection, puts it into the index, and begins its session.
func (h *hub) begin(ctx context.Context, steps *atomic.Int64, client *device.Client, id string, topics ...string) (*conn, error) {
	c := &conn{hub: h, steps: steps, wake: wake.New()}
	from, last := client.Resume()
	c.session = h.driver.NewSession(c, id, from, last)
	for _, topic := range topics {
		c.hold(topic)
	}
	if err := c.session.Begin(ctx); err != nil {
		c.end()
		return nil, err
	}
	if err := h.follower.Follow(topics...).Wait(ctx); err != nil {
		c.end()
		return nil, err
	}
	if err := c.session.Start(ctx); err != nil {
		c.end()
		return nil, err
	}
	return c, nil
}

func (c *conn) hold(topic string) {
	c.mu.Lock()
	c.topics = append(c.topics, topic)
	c.mu.Unlock()
	c.hub.mu.Lock()
	c.hub.index[topic] = append(c.hub.index[topic], c)
	c.hub.mu.Unlock()
}

// join makes the connection belong to one more topic.
func (c *conn) join(ctx context.Context, topic string) error {
	c.hold(topic)
	if err := c.session.Join(ctx, partitionOf(topic)); err != nil {
		return err
	}
	return c.hub.follower.Follow(topic).Wait(ctx)
}

// end ends the connection. The frames in its queue are lost.
func (c *conn) end() {
	c.close()
	c.mu.Lock()
	topics := c.topics
	c.topics = nil
	c.mu.Unlock()
	c.hub.mu.Lock()
	for _, topic := range topics {
		c.hub.index[topic] = slices.DeleteFunc(c.hub.index[topic], func(o *conn) bool { return o == c })
	}
	c.hub.mu.Unlock()
	c.hub.follower.Unfollow(topics...)
}

func (c *conn) close() {
	c.mu.Lock()
	c.ended, c.frames = true, nil
	c.mu.Unlock()
	c.session.End()
	c.wake.Set()
}

// Queue implements driver.Conn.
func (c *conn) Queue(f device.Frame) {
	c.mu.Lock()
	full := f.Kind == device.Message && len(c.frames) >= queueSize
	if !full && !c.ended {
		c.frames = append(c.frames, stamped{f, c.steps.Add(1)})
	}
	c.mu.Unlock()
	if full {
		c.close()
	}
	c.wake.Set()
}

// Replay implements driver.Conn.
func (c *conn) Replay(f device.Frame) { c.Queue(f) }

// Gap implements driver.Conn.
func (c *conn) Gap(f device.Frame, since time.Time) {
	if since.IsZero() {
		panic("a gap since nobody knows when")
	}
	c.Queue(f)
}

// next takes the next frame from the queue.
func (c *conn) next() (f stamped, ok bool) {
	c.mu.Lock()
	if ok = len(c.frames) > 0; ok {
		f, c.frames = c.frames[0], c.frames[1:]
	}
	c.mu.Unlock()
	if ok {
		c.session.Drained()
	}
	return f, ok
}

func (c *conn) gone() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended
}

// Room implements driver.Conn.
func (c *conn) Room() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.frames) <= queueSize/4
}

// Topics implements driver.Conn.
func (c *conn) Topics(partition int) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(c.topics), func(t string) bool { return partitionOf(t) != partition })
}

// Holds implements driver.Conn.
func (c *conn) Holds(topic string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Contains(c.topics, topic)
}

// Open implements driver.Conn.
func (c *conn) Open([]byte) device.Letter { return device.Letter{} }

func newServers(limits store.Limits) (servers [partitions]*memlog.Server) {
	for i := range servers {
		servers[i] = memlog.New(limits)
	}
	return servers
}
