package hubtest

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/test/load"
)

// A device is a client. It never reconnects: if it is closed, the test fails.
type device struct {
	load.Device
	conn  *websocket.Conn
	ended chan struct{} // closed when the reader has ended

	mu     sync.Mutex     // guards the rest
	counts map[string]int // messages that came, by sender
	err    error
}

// connect connects a device of the user to the hub.
func (c *cluster) connect(n *node, user, name string, groups ...string) *device {
	c.Helper()
	d := &device{
		Device: load.Device{Name: name, User: user, Groups: groups, Node: n.NodeID()},
		ended:  make(chan struct{}),
		counts: make(map[string]int),
	}
	ctx, cancel := context.WithTimeout(c.Context(), patience)
	defer cancel()
	query := url.Values{"user": {user}, "device": {name}, "group": groups}
	conn, _, err := websocket.Dial(ctx, n.server.URL+"?"+query.Encode(), nil)
	if err != nil {
		c.Fatalf("connect %v: %v", &d.Device, err)
	}
	conn.SetReadLimit(-1)
	d.conn, d.Since = conn, time.Now().UnixNano()
	go d.read()
	c.Cleanup(func() {
		d.conn.CloseNow()
		<-d.ended
	})
	c.devices = append(c.devices, d)
	return d
}

func (d *device) read() {
	defer close(d.ended)
	var message bytes.Buffer
	for {
		_, r, err := d.conn.Reader(context.Background())
		if err == nil {
			message.Reset()
			_, err = message.ReadFrom(r)
		}
		if err == nil {
			err = d.take(message.Bytes())
		}
		if err != nil {
			d.mu.Lock()
			d.err = err
			d.mu.Unlock()
			return
		}
	}
}

func (d *device) take(message []byte) error {
	r, ok := load.ParseReceipt(message)
	if !ok {
		return fmt.Errorf("message %.100q is none of ours", message)
	}
	d.Take(r)
	d.mu.Lock()
	d.counts[r.Sender]++
	d.mu.Unlock()
	return nil
}

// count returns how many messages of a sender have come.
func (d *device) count(sender string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.counts[sender]
}

func (d *device) disconnected() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err
}

// topics returns the targets that reach the device, each with one name.
func (d *device) topics() []string {
	topics := []string{"*", "u:" + d.User}
	for _, g := range d.Groups {
		topics = append(topics, "g:"+g)
	}
	return topics
}

// missesFence returns an error that names a sender whose fence has not arrived
// completely.
func (d *device) missesFence(senders []string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range senders {
		if got, want := d.counts[s], len(d.topics()); d.err == nil && got < want {
			return fmt.Errorf("%v got %d of %d messages of %s", &d.Device, got, want, s)
		}
	}
	return nil
}

// fenceTime is how long to wait for a fence before the next is sent.
const fenceTime = 10 * time.Second

// fence sends to every topic from every hub, until every device has got all that is
// meant for it. By then a device has also got all that it will ever get of earlier
// messages, because the Bus keeps the order within each topic. Lost messages of a
// fence must be accounted for like all others.
func (c *cluster) fence() {
	c.Helper()
	all := make(map[string]bool)
	for _, d := range c.devices {
		for _, topic := range d.topics() {
			all[topic] = true
		}
	}
	topics := slices.Sorted(maps.Keys(all))
	for deadline := time.Now().Add(patience); ; {
		err := c.tryFence(topics)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			c.Errorf("not everyone is reached from everywhere, within %v: %v", patience, err)
			c.settle() // settle knows more
			c.FailNow()
		}
	}
}

// tryFence sends one fence and waits for it. It gives up early if a gap is reported
// that may have part of it.
func (c *cluster) tryFence(topics []string) error {
	c.rounds++
	gaps := c.gaps()
	var names []string
	var sending sync.WaitGroup
	records := make([][]load.Record, len(c.nodes))
	for i, n := range c.nodes {
		name := "fence." + senderName(c.rounds, i)
		names = append(names, name)
		sending.Go(func() { records[i] = sendFence(n.Hub, name, topics) })
	}
	sending.Wait()
	for i, name := range names {
		c.records[name] = records[i]
	}
	for i, name := range names {
		if r, failed := failure(records[i]); failed {
			time.Sleep(100 * time.Millisecond) // some errors come at once
			return fmt.Errorf("message %d of %s to %s: %s", r.N, name, r.Target, r.Err)
		}
	}
	for deadline := time.Now().Add(min(fenceTime, patience)); ; time.Sleep(20 * time.Millisecond) {
		var err error
		for _, d := range c.devices {
			if err = d.missesFence(names); err != nil {
				break
			}
		}
		if err == nil || time.Now().After(deadline) || !slices.Equal(gaps, c.gaps()) {
			return err
		}
	}
}

// failure returns one of the calls of Send that failed, if any.
func failure(records []load.Record) (load.Record, bool) {
	for _, r := range records {
		if r.Err != "" {
			return r, true
		}
	}
	return load.Record{}, false
}

func sendFence(hub *herald.Hub, sender string, topics []string) (records []load.Record) {
	for i, topic := range topics {
		records = append(records, load.Send(context.Background(), hub, sender, i, topic, nil))
	}
	return records
}
