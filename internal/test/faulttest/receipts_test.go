package faulttest

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/test/redistest"
	"github.com/heraldgo/herald/internal/test/wsraw"
)

// An answering client answers pings, and records the messages that have arrived.
type answering struct {
	*client
	mu  sync.Mutex
	got map[string]bool
}

func (n *node) answer(user string) *answering {
	n.t.Helper()
	c, err := n.handshake(user, http.Header{})
	if err != nil {
		n.t.Fatal(err)
	}
	a := &answering{client: c, got: make(map[string]bool)}
	c.ended = make(chan struct{})
	go func() {
		defer close(c.ended)
		for {
			f, err := c.ReadFrame()
			switch {
			case err != nil || f.Opcode == wsraw.Close:
				return
			case f.Opcode == wsraw.Ping:
				c.WriteFrames(wsraw.Frame{Fin: true, Opcode: wsraw.Pong, Payload: f.Payload})
			default:
				a.mu.Lock()
				a.got[string(f.Payload)] = true
				a.mu.Unlock()
			}
		}
	}()
	return a
}

func (a *answering) has(text string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.got[text]
}

// A node is killed while messages are on their way to a user and to everyone. Each
// call ends, and none reports a message as received that has not arrived.
func TestReceiptsOfAKilledNode(t *testing.T) {
	t.Parallel()
	nodes := startNodes(t, single(redistest.Start(t)), 3, herald.Config{})
	asker, dead := nodes[0], nodes[1]
	lost, kept := dead.answer("u"), nodes[2].answer("u")
	await(t, "both are listed, and counted", func() error {
		count, err := asker.Count(t.Context())
		if sessions, _ := asker.Sessions(t.Context(), herald.User("u")); err == nil && count+len(sessions) != 4 {
			err = fmt.Errorf("%d counted, and %d sessions", count, len(sessions))
		}
		return err
	})
	killed := make(chan struct{})
	var calls sync.WaitGroup
	for i := range 8 {
		calls.Go(func() {
			for j := 0; ; j++ {
				over := false
				select {
				case <-killed:
					over = true // one more call, which the dead node does not hear
				default:
				}
				text := fmt.Sprintf("%d of %d", j, i)
				checkKilled(t, asker, text, lost, kept, over)
				if over {
					return
				}
			}
		})
	}
	await(t, "messages before the kill", func() error {
		if !lost.has("20 of 0") {
			return fmt.Errorf("not yet")
		}
		return nil
	})
	dead.kill()
	close(killed)
	calls.Wait()
	await(t, "a call after the node's lease", func() error {
		d, err := asker.Deliver(context.Background(), herald.User("u"), herald.Text("after"))
		if err == nil && (d.ReceivedTotal != 1 || d.MissedTotal != 0) {
			err = fmt.Errorf("%+v", d)
		}
		return err
	})
}

// checkKilled makes a call without a deadline to each target, and checks the
// receipts.
func checkKilled(t *testing.T, asker *node, text string, lost, kept *answering, over bool) {
	d, err := asker.Deliver(context.Background(), herald.User("u"), herald.Text(text))
	if err != nil {
		return // the Registry may not be trusted now
	}
	by := make(map[string]*answering)
	for _, c := range []*answering{lost, kept} {
		by[c.node.NodeID()] = c
	}
	for _, s := range d.Received {
		if c := by[s.Node]; c == nil || !c.has(text) {
			t.Errorf("a receipt of %s for %q, which has not arrived", s.ID, text)
		}
		delete(by, s.Node)
	}
	for _, s := range d.Missed {
		if by[s.Node] == nil {
			t.Errorf("%s is listed twice, or nobody's", s.ID)
		}
	}
	if d.ReceivedTotal == 0 || over && d.ReceivedTotal != 1 {
		t.Errorf("%q is received by %d", text, d.ReceivedTotal)
	}
	all, err := asker.Deliver(context.Background(), herald.Everyone(), herald.Text("all "+text))
	if err == nil && (all.ReceivedTotal == 0 || all.ReceivedTotal > 2) {
		t.Errorf("everyone: %+v", all)
	}
}
