package driver_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heraldgo/herald/internal/errs"
	"github.com/heraldgo/herald/internal/history"
	"github.com/heraldgo/herald/internal/history/device"
	"github.com/heraldgo/herald/internal/history/driver"
	"github.com/heraldgo/herald/internal/history/store"
	"github.com/heraldgo/herald/internal/test/memlog"
)

var limits = store.Limits{Segment: 64, Age: 1 << 40, Bytes: 1 << 30}

// A spy is a Log that counts calls. A test can change its answers.
type spy struct {
	driver.Log
	hole atomic.Bool  // no calls but Fence are answered
	slow atomic.Bool  // appends and reads take a while, as large ones do
	near atomic.Bool  // a survey also reads its entries
	lost atomic.Int64 // if not zero, an offset whose entry is gone

	mu      sync.Mutex
	calls   map[string]int
	batches [][]store.Draft
	reply   func(store.Reply, error) (store.Reply, error)
}

func (s *spy) count(call string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[call]
}

func (s *spy) call(ctx context.Context, name string) error {
	s.mu.Lock()
	s.calls[name]++
	s.mu.Unlock()
	if s.hole.Load() {
		<-ctx.Done()
	}
	if s.slow.Load() && name != "survey" {
		select {
		case <-time.After(4 * time.Second):
		case <-ctx.Done():
		}
	}
	return ctx.Err()
}

func (s *spy) Append(ctx context.Context, known history.Point, segment uint64, batch []store.Draft) (store.Reply, error) {
	if err := s.call(ctx, "append"); err != nil {
		return store.Reply{}, err
	}
	s.mu.Lock()
	s.batches = append(s.batches, slices.Clone(batch))
	reply := s.reply
	s.mu.Unlock()
	if reply != nil {
		return reply(s.Log.Append(ctx, known, segment, batch))
	}
	return s.Log.Append(ctx, known, segment, batch)
}

func (s *spy) Fence(ctx context.Context, known history.Point, number uint64) (history.Point, error) {
	s.mu.Lock()
	s.calls["fence"]++
	s.mu.Unlock()
	return s.Log.Fence(ctx, known, number)
}

func (s *spy) Survey(ctx context.Context, known, from history.Point, topics []string, most int) (history.Survey, error) {
	if err := s.call(ctx, "survey"); err != nil {
		return history.Survey{}, err
	}
	survey, err := s.Log.Survey(ctx, known, from, topics, most)
	if err == nil && s.near.Load() && len(survey.Offsets) > 0 {
		var x history.Excerpt
		x, _, err = s.Log.Read(ctx, known, survey.End.Epoch, survey.Offsets, nil)
		survey.Entries = x.Entries
	}
	return survey, err
}

func (s *spy) Read(ctx context.Context, known history.Point, epoch history.Epoch, offsets, more []history.Offset) (history.Excerpt, bool, error) {
	if err := s.call(ctx, "read"); err != nil {
		return history.Excerpt{}, false, err
	}
	if len(more) > 0 {
		s.mu.Lock()
		s.calls["read ahead"]++
		s.mu.Unlock()
	}
	x, ok, err := s.Log.Read(ctx, known, epoch, offsets, more)
	x.Entries = slices.DeleteFunc(x.Entries, func(e history.Entry) bool { return e.Offset == history.Offset(s.lost.Load()) })
	return x, ok, err
}

// one runs a test with one node. The Log of its partition 0 is a spy.
func one(t *testing.T, edit func(*driver.Config), test func(t *testing.T, h *hub, s *spy)) {
	synctest.Test(t, func(t *testing.T) {
		s := &spy{calls: make(map[string]int)}
		h := newHub(t, newServers(limits), func(c *driver.Config) {
			s.Log = c.Partitions[0].Log
			c.Partitions[0].Log = s
			if edit != nil {
				edit(c)
			}
		})
		synctest.Wait()
		test(t, h, s)
	})
}

func (h *hub) append(t *testing.T, topic string, n int) {
	t.Helper()
	if err := h.driver.Append(t.Context(), 0, store.Draft{Topics: []string{topic}, Body: body(n)}); err != nil {
		t.Fatal(err)
	}
}

var steps atomic.Int64

// come connects a client, and takes all frames that are sent to it at once.
func (h *hub) come(t *testing.T, client *device.Client, id string, topics ...string) (c *conn, frames []device.Frame) {
	t.Helper()
	c, err := h.begin(t.Context(), &steps, client, id, topics...)
	if err != nil {
		t.Fatal(err)
	}
	return c, c.all(client)
}

// all takes all frames that come without time passing.
func (c *conn) all(client *device.Client) (frames []device.Frame) {
	for {
		synctest.Wait()
		f, ok := c.next()
		if !ok {
			return frames
		}
		client.Receive(f.Frame)
		frames = append(frames, f.Frame)
	}
}

func kinds(frames []device.Frame) (text string) {
	for _, f := range frames {
		text += string(" mpwg"[f.Kind])
	}
	return text
}

func expect(t *testing.T, what string, got, want any) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// Fences are sent at an interval, one at a time. A lost fence is replaced late, and
// makes no Mark if it arrives after that.
func TestFences(t *testing.T) {
	one(t, nil, func(t *testing.T, h *hub, s *spy) {
		before := s.count("fence")
		time.Sleep(10*time.Second + time.Millisecond)
		expect(t, "fences in ten seconds", s.count("fence")-before, 10)
		h.links[0].Deafen()
		before = s.count("fence")
		time.Sleep(9 * time.Second)
		expect(t, "fences while one is out", s.count("fence")-before, 1)
		time.Sleep(2 * time.Second)
		expect(t, "fences after it was given up", s.count("fence")-before, 2)
	})
}

// Many quiet partitions share four fences a second. A partition has one fence a
// second while something is published there, even if nobody follows it, and for a
// while after a topic is followed.
func TestQuietFences(t *testing.T) {
	many := func(c *driver.Config) {
		for len(c.Partitions) < history.MaxPartitions {
			c.Partitions = append(c.Partitions, c.Partitions[1])
		}
	}
	one(t, many, func(t *testing.T, h *hub, s *spy) {
		fences := func(what string, in time.Duration, want int, do func()) {
			t.Helper()
			before := s.count("fence")
			for range in / time.Second {
				do()
				time.Sleep(time.Second)
			}
			expect(t, "fences in "+in.String()+" while "+what, s.count("fence")-before, want)
		}
		nothing := func() {}
		time.Sleep(10*time.Second + time.Millisecond)
		fences("it is quiet", 40*time.Second, 10, nothing)
		fences("others are sent something", 40*time.Second, 40, func() { h.append(t, "b0", 1) })
		time.Sleep(10 * time.Second)
		fences("a topic is new", 4*time.Second, 3, sync.OnceFunc(func() {
			if err := h.driver.Subscribe(t.Context(), 0, "a0"); err != nil {
				t.Error(err)
			}
		}))
		time.Sleep(10*time.Second + 500*time.Millisecond) // so that no fence is due when the count begins or ends
		fences("it is quiet again", 40*time.Second, 10, nothing)
	})
}

// A fence makes no Mark if it is not the one that the node waits for.
func TestForeignFence(t *testing.T) {
	one(t, func(c *driver.Config) { c.Retention = 0 }, func(t *testing.T, h *hub, s *spy) {
		var client device.Client
		c, _ := h.come(t, &client, "1", "a0")
		h.append(t, "b0", 1)
		from, _ := client.Resume()
		h.driver.Push(0, driver.Event{Kind: driver.Fence, Number: 99, End: history.Point{Epoch: from[0].Epoch, Offset: from[0].Offset + 1}})
		expect(t, "of a foreign fence", kinds(c.all(&client)), "")
		time.Sleep(time.Second)
		expect(t, "of its own", kinds(c.all(&client)), "p")
	})
}

// A quiet device gets a Mark about every quarter of the retention.
func TestMarks(t *testing.T) {
	one(t, nil, func(t *testing.T, h *hub, s *spy) {
		var client device.Client
		c, frames := h.come(t, &client, "1", "a0")
		expect(t, "it begins with", kinds(frames), "w")
		marks := 0
		for i := range 60 {
			h.append(t, "b0", i)
			time.Sleep(time.Second)
			marks += len(c.all(&client))
		}
		expect(t, "marks in a minute", marks, 4)
	})
}

// If the log does not answer, connected devices get live messages all the same,
// after a bounded time.
func TestGaveUp(t *testing.T) {
	one(t, nil, func(t *testing.T, h *hub, s *spy) {
		var client device.Client
		c, _ := h.come(t, &client, "1", "a0")
		s.hole.Store(true)
		h.links[0].Cut(0)
		synctest.Wait()
		h.links[0].Up()
		if err := h.links[0].Publish(t.Context(), []store.Draft{{Topics: []string{"a0"}, Body: body(1)}}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(9 * time.Second)
		expect(t, "while it may answer", kinds(c.all(&client)), "")
		time.Sleep(2 * time.Second)
		expect(t, "given up", kinds(c.all(&client)), "gm")
		if s.count("survey") < 4 {
			t.Errorf("it asked %d times", s.count("survey"))
		}
		s.hole.Store(false)
		time.Sleep(3 * time.Second)
		expect(t, "health, once it answers", h.driver.Health(), nil)
	})
}

// A subscription waits until the node has repaired its feed.
func TestHeldBack(t *testing.T) {
	one(t, nil, func(t *testing.T, h *hub, s *spy) {
		s.hole.Store(true)
		h.links[0].Cut(0)
		h.links[0].Up()
		synctest.Wait()
		done := make(chan error, 1)
		go func() { done <- h.driver.Subscribe(t.Context(), 0, "a0") }()
		time.Sleep(time.Second)
		h.publish(t, "a0")
		if len(done) > 0 || len(h.delivered()) > 0 {
			t.Error("it was not held back")
		}
		s.hole.Store(false)
		if err := <-done; err != nil {
			t.Error(err)
		}
		h.append(t, "a0", 2)
		synctest.Wait()
		expect(t, "behind it", h.delivered(), "[a0 2]")
	})
}

// publish publishes a message without the log.
func (h *hub) publish(t *testing.T, topic string) {
	t.Helper()
	if err := h.links[0].Publish(t.Context(), []store.Draft{{Topics: []string{topic}, Body: body(9)}}); err != nil {
		t.Fatal(err)
	}
}

// Appends of many callers share batches of at most 64.
func TestBatches(t *testing.T) {
	one(t, nil, func(t *testing.T, h *hub, s *spy) {
		h.links[0].Break(memlog.Faults{Delay: 100 * time.Millisecond})
		var calls sync.WaitGroup
		for i := range 201 {
			calls.Go(func() { h.append(t, "a0", i) })
		}
		calls.Wait()
		total := 0
		for _, b := range s.batches {
			total += len(b)
			if len(b) > 64 {
				t.Errorf("a batch of %d", len(b))
			}
		}
		if len(s.batches) > 12 { // some drafts are appended again
			t.Errorf("%d batches", len(s.batches))
		}
	})
}

// A refused append is tried again for a while if the node was behind. An append
// that may have been made is not tried again. If an append was not made, messages
// that are not to be kept are published all the same.
func TestOutcomes(t *testing.T) {
	refused, unknown := errors.New("OOM"), fmt.Errorf("%w: cut", errs.Unknown)
	behind := func(store.Reply, error) (store.Reply, error) { return store.Reply{Outcome: store.WrongSegment}, nil }
	for _, test := range []struct {
		name     string
		reply    func(store.Reply, error) (store.Reply, error)
		attempts int
		kept     error // the error for a message that is to be kept
		unkept   error
	}{
		{"behind", behind, 8, errs.BusDown, nil},
		{"refused", func(store.Reply, error) (store.Reply, error) { return store.Reply{}, refused }, 1, refused, nil},
		{"unknown", func(store.Reply, error) (store.Reply, error) { return store.Reply{}, unknown }, 1, errs.Unknown, errs.Unknown},
	} {
		t.Run(test.name, func(t *testing.T) {
			one(t, nil, func(t *testing.T, h *hub, s *spy) {
				h.append(t, "a0", 0) // after this the node knows epoch and segment
				s.mu.Lock()
				s.reply = test.reply
				s.mu.Unlock()
				for _, d := range []store.Draft{{Body: body(1)}, {Body: body(2), Unkept: true}} {
					before := s.count("append")
					d.Topics = []string{"a0"}
					err, want := h.driver.Append(t.Context(), 0, d), test.kept
					if d.Unkept {
						want = test.unkept
					}
					if !errors.Is(err, want) {
						t.Errorf("unkept %v: %v, want %v", d.Unkept, err, want)
					}
					expect(t, "attempts", s.count("append")-before, test.attempts)
				}
			})
		})
	}
}

// absent returns clients that have each missed messages of a topic.
func (h *hub) absent(t *testing.T, clients, missed int, topic string) []*device.Client {
	t.Helper()
	away := make([]*device.Client, clients)
	for i := range away {
		away[i] = new(device.Client)
		c, _ := h.come(t, away[i], fmt.Sprint(i), topic)
		c.end()
	}
	for i := range missed {
		h.append(t, topic, i)
	}
	return away
}

// Devices that missed the same entries share their reading.
func TestSharedReads(t *testing.T) {
	one(t, func(c *driver.Config) { c.Bytes = 1 << 20 }, func(t *testing.T, h *hub, s *spy) {
		away := h.absent(t, 50, 40, "a0")
		h.links[0].Break(memlog.Faults{Delay: 10 * time.Millisecond})
		var all sync.WaitGroup
		for i, client := range away {
			all.Go(func() {
				c, err := h.begin(t.Context(), &steps, client, fmt.Sprint("again", i), "a0")
				if err != nil {
					t.Error(err)
					return
				}
				messages := 0
				for end := time.After(5 * time.Second); ; {
					for f, ok := c.next(); ok; f, ok = c.next() {
						if message, _ := client.Receive(f.Frame); message {
							messages++
						}
					}
					select {
					case <-c.wake:
						continue
					case <-end:
					}
					break
				}
				if messages != 40 {
					t.Errorf("%d messages", messages)
				}
			})
		}
		all.Wait()
		if n := s.count("read"); n > 100 { // each alone needs ten
			t.Errorf("%d reads", n)
		}
	})
}

// Entries that came with a survey are not read again. They are treated like a page:
// they wait while the queue has no room, or while pages take all of the node's
// budget.
func TestSurveyThatReads(t *testing.T) {
	for _, c := range []struct {
		name         string
		missed, live int // missed messages, and live ones that fill the queue meanwhile
		bytes, reads int
		want, later  string
	}{
		{"a page", 4, 0, 1 << 20, 0, "wpmmmmp", ""},
		{"more than a page", 5, 0, 1 << 20, 0, "wpmmmmmp", ""},
		{"no room", 4, queueSize / 2, 1 << 20, 0, "wp" + strings.Repeat("m", queueSize/2) + "mmmmp", ""},
		{"no budget", 4, 0, 0, 0, "wp", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			one(t, func(d *driver.Config) { d.Bytes = c.bytes }, func(t *testing.T, h *hub, s *spy) {
				away := h.absent(t, 1, c.missed, "a0")[0]
				s.near.Store(true)
				h.links[0].Break(memlog.Faults{Delay: 500 * time.Millisecond})
				conn, err := h.begin(t.Context(), &steps, away, "again", "a0")
				if err != nil {
					t.Fatal(err)
				}
				h.pass("a0", c.live)
				time.Sleep(5 * time.Second)
				expect(t, "it has", kinds(conn.all(away)), c.want)
				time.Sleep(5 * time.Second)
				expect(t, "with room", kinds(conn.all(away)), c.later)
				if n := s.count("read"); n != c.reads {
					t.Errorf("%d reads", n)
				}
			})
		})
	}
}

// If a device holds no topic in a partition, the log is not asked, unless the feed
// cannot judge the device's position.
func TestNoTopics(t *testing.T) {
	one(t, nil, func(t *testing.T, h *hub, s *spy) {
		client := h.absent(t, 1, 0, "a1")[0]
		from, conns := client.Resume()
		for _, test := range []struct {
			at      history.Point
			surveys int
			frames  string
		}{
			{from[0], 0, "wpp"},
			{history.Point{Epoch: from[0].Epoch, Offset: from[0].Offset + 1}, 1, ""},
			{history.Point{Epoch: from[0].Epoch + 1}, 1, ""},
		} {
			before := s.count("survey")
			from[0] = test.at
			c, frames := h.come(t, device.NewClient(from, conns), "again", "a1")
			expect(t, "surveys", s.count("survey")-before, test.surveys)
			if test.frames != "" {
				expect(t, "it has", kinds(frames), test.frames)
			}
			c.end()
		}
	})
}

// The surveys of devices are limited in rate.
func TestRate(t *testing.T) {
	one(t, func(c *driver.Config) { c.Rate, c.Burst = 4, 6 }, func(t *testing.T, h *hub, s *spy) {
		away := h.absent(t, 20, 0, "a0")
		before := s.count("survey")
		for i, client := range away {
			h.come(t, client, fmt.Sprint("again", i), "a0")
		}
		// Each device asks in two partitions, in any order.
		time.Sleep(3 * time.Second)
		if n := s.count("survey") - before; n < 6 || n > 18 {
			t.Errorf("%d surveys in three seconds", n)
		}
		time.Sleep(10 * time.Second)
		expect(t, "surveys in the end", s.count("survey")-before, 20)
	})
}

// A device's entries are read as its queue drains, and only within the node's
// budget.
func TestRoom(t *testing.T) {
	one(t, func(c *driver.Config) { c.Bytes = 1 }, func(t *testing.T, h *hub, s *spy) {
		away := h.absent(t, 2, 40, "a0")
		first, err := h.begin(t.Context(), &steps, away[0], "first", "a0")
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		expect(t, "reads for a queue that nobody drains", s.count("read"), 1)
		second, frames := h.come(t, away[1], "second", "a0")
		expect(t, "reads beyond the budget", s.count("read"), 1)
		expect(t, "the second has", kinds(frames)[:1], "w")
		time.Sleep(9 * time.Second)
		expect(t, "while it waits it has", kinds(second.all(away[1])), "")
		time.Sleep(20 * time.Second)
		expect(t, "when it has waited for long it has", kinds(second.all(away[1])), "g")
		first.end()
		synctest.Wait()
		if s.count("read") < 2 {
			t.Error("nothing is read after the first has ended")
		}
	})
}

// Devices that missed much in several partitions get at most what their queues
// hold.
func TestRoomForOnePage(t *testing.T) {
	one(t, func(c *driver.Config) { c.Device.Page, c.Bytes = queueSize/2, 1<<20 }, func(t *testing.T, h *hub, s *spy) {
		away := h.absent(t, 1, 40, "a0")[0]
		for i := range 40 {
			if err := h.driver.Append(t.Context(), 1, store.Draft{Topics: []string{"a1"}, Body: body(i)}); err != nil {
				t.Fatal(err)
			}
		}
		c, err := h.begin(t.Context(), &steps, away, "again", "a0", "a1")
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		h.pass("a0", 1)
		synctest.Wait()
		if c.gone() {
			t.Fatal("its queue was overrun")
		}
		expect(t, "messages", strings.Count(kinds(c.all(away)), "m"), 40+40+1)
	})
}

// If a device missed much in several partitions, it gets a page of each in turn, so
// that the copies of a message come soon after each other.
func TestTurnsOfPartitions(t *testing.T) {
	const missed, page = 200, 4
	one(t, func(c *driver.Config) { c.Device.Page, c.Bytes = page, 1<<20 }, func(t *testing.T, h *hub, s *spy) {
		away := h.absent(t, 1, missed, "a0")[0]
		for i := range missed {
			if err := h.driver.Append(t.Context(), 1, store.Draft{Topics: []string{"a1"}, Body: body(i)}); err != nil {
				t.Fatal(err)
			}
		}
		c, err := h.begin(t.Context(), &steps, away, "again", "a0", "a1")
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		var had [partitions]int
		for _, f := range c.all(away) {
			if f.Kind != device.Message {
				continue
			}
			had[f.Partition]++
			if ahead := had[f.Partition] - had[1-f.Partition]; ahead > 2*page {
				t.Fatalf("of partition %d it has %d messages more than of the other", f.Partition, ahead)
			}
		}
		expect(t, "messages", had, [partitions]int{missed, missed})
	})
}

// An answer waits if live messages have taken the room in the queue.
func TestRoomIsGone(t *testing.T) {
	one(t, nil, func(t *testing.T, h *hub, s *spy) {
		away := h.absent(t, 1, 0, "a0")[0]
		h.links[0].Break(memlog.Faults{Delay: time.Second})
		c, err := h.begin(t.Context(), &steps, away, "again", "a0")
		if err != nil {
			t.Fatal(err)
		}
		h.pass("a0", queueSize/2)
		time.Sleep(3 * time.Second)
		expect(t, "it has", kinds(c.all(away)), "wpmmmmmmmm")
		time.Sleep(3 * time.Second)
		expect(t, "then it has", kinds(c.all(away)), "p")
	})
}

// pass delivers n packets that are not kept.
func (h *hub) pass(topic string, n int) {
	for i := range n {
		h.driver.Push(partitionOf(topic), driver.Event{Kind: driver.Packet, Packet: history.Packet{Topic: topic, Body: body(i)}})
	}
}

// If the log does not answer, a device is told once.
func TestUnanswered(t *testing.T) {
	one(t, nil, func(t *testing.T, h *hub, s *spy) {
		away := h.absent(t, 1, 3, "a0")
		s.hole.Store(true)
		c, _ := h.come(t, away[0], "again", "a0")
		time.Sleep(9 * time.Second)
		c.all(away[0])
		time.Sleep(20 * time.Second)
		expect(t, "while there is no answer", kinds(c.all(away[0])), "g")
		s.hole.Store(false)
		time.Sleep(3 * time.Second)
		expect(t, "answered", kinds(c.all(away[0])), "mmmp")
	})
}

// Large batches and pages may take longer than other calls.
func TestSlowAnswers(t *testing.T) {
	one(t, nil, func(t *testing.T, h *hub, s *spy) {
		away := h.absent(t, 1, 3, "a0")
		s.slow.Store(true)
		h.append(t, "a0", 9)
		c, _ := h.come(t, away[0], "again", "a0")
		time.Sleep(9 * time.Second)
		expect(t, "after one page and no other try", kinds(c.all(away[0])), "mmmmp")
		if n := s.count("read"); n != 1 {
			t.Errorf("%d reads", n)
		}
	})
}

// Close ends calls that wait.
func TestClose(t *testing.T) {
	one(t, nil, func(t *testing.T, h *hub, s *spy) {
		s.hole.Store(true)
		h.links[0].Cut(0)
		h.links[0].Up()
		synctest.Wait()
		results := make(chan error, 3)
		go func() { results <- h.driver.Subscribe(context.Background(), 0, "a0") }()
		go func() {
			results <- h.driver.Append(context.Background(), 0, store.Draft{Topics: []string{"a0"}, Body: body(1)})
		}()
		synctest.Wait()
		h.stop()
		h.stop()
		for range 2 {
			if err := <-results; err == nil {
				t.Error("a call ended without an error")
			}
		}
		if err := h.driver.Subscribe(context.Background(), 0, "a0"); !errors.Is(err, errs.Closed) {
			t.Errorf("a later call: %v", err)
		}
		h.driver.Push(0, driver.Event{Kind: driver.Down})
	})
}
