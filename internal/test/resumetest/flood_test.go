package resumetest_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/heraldclient"
)

// A client that comes back during a flood catches up while it goes on, and misses
// nothing of it without being told. Each round trip to the log brings a page of the
// flood, and more than that if the node's queue is small.
func TestFlood(t *testing.T) {
	eachBus(t, func(t *testing.T, config func() herald.Config) {
		t.Run("usual queue", func(t *testing.T) { testFlood(t, config, 128, 0) })
		t.Run("small queue", func(t *testing.T) { testFlood(t, config, 64, 64) })
	})
}

// testFlood floods from many concurrent senders.
func testFlood(t *testing.T, config func() herald.Config, senders, queue int) {
	small := config()
	small.QueueMessages = queue
	one, two := newNode(t, small), newNode(t, config())
	d := newDevice(t, one, "user=a", "")
	d.connected()

	flooding, stop := context.WithCancel(t.Context())
	var flood, reading sync.WaitGroup
	defer flood.Wait()
	defer stop()
	sent := make([]int, senders)
	for i := range senders {
		flood.Go(func() {
			for flooding.Err() == nil {
				if err := two.Send(context.Background(), herald.User("a"), herald.Text(fmt.Sprint(i, " ", sent[i]))); err != nil {
					t.Error(err)
					return
				}
				sent[i]++
			}
		})
	}
	got, jumps := make([]int, senders), make([]bool, senders)
	reading.Go(func() {
		for {
			switch e := d.next().(type) {
			case heraldclient.Message:
				if string(e.Data) == "the end" {
					return
				}
				var i, number int
				if _, err := fmt.Sscan(string(e.Data), &i, &number); err != nil || number < got[i] || number > got[i] && !jumps[i] {
					t.Errorf("got %q after %d of that sender: %v", e.Data, got[i], err)
				}
				got[i], jumps[i] = number+1, false
			case heraldclient.Gap: // it was away for more messages than a survey covers
				for i := range jumps {
					jumps[i] = true
				}
			}
		}
	})
	more := func(what string, messages uint64) {
		t.Helper()
		before := two.Stats().Sent
		await(t, what, func() bool { return two.Stats().Sent >= before+messages })
	}
	more("the flood", 200)
	d.Cut()
	more("what the client misses", 3_000)
	d.Heal()
	await(t, "the end of the resume, under the flood", func() bool { s := one.Stats(); return s.ResumesWhole+s.ResumesInPart > 0 })
	stop()
	flood.Wait()
	two.send(t, herald.User("a"), "the end")
	reading.Wait()
	for i := range senders {
		if got[i] != sent[i] && !jumps[i] {
			t.Errorf("got %d of %d that sender %d has sent", got[i], sent[i], i)
		}
	}
	s := one.Stats()
	t.Logf("%d sent, %d resumes, %d of them whole, %d times too slow", two.Stats().Sent, s.Resumes, s.ResumesWhole, s.TooSlow)
}
