package heraldtest

import (
	"context"
	"fmt"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/history"
	"github.com/heraldgo/herald/internal/history/device"
	"github.com/heraldgo/herald/internal/history/protocol"
)

// ConnectHistory is Connect for a client that can come back: it speaks the protocol of
// PROTOCOL.md. The configuration of the Cluster must have a Retention. The Client
// reads no header lines: Receive and the others see messages alone.
func (c *Cluster) ConnectHistory(i int, id herald.Identity) *Client {
	c.t.Helper()
	if c.sender == nil {
		c.t.Fatal("ConnectHistory: Config.Retention must be set")
	}
	client := &Client{t: c.t, cluster: c, seat: seat{identity: id}, memory: new(device.Client)}
	client.ComeBack(i)
	return client
}

// Cut ends the connection without a close frame, as a network that fails does.
func (c *Client) Cut() { c.conn.CloseNow() }

// ComeBack connects a client by ConnectHistory once more, to the i-th node. It waits
// until all has come that the client missed, which is received next, and reports whether
// that is complete. If not, the client was told that something may be missing.
func (c *Client) ComeBack(i int) (complete bool) {
	c.t.Helper()
	if c.memory == nil {
		c.t.Fatal("only a client by ConnectHistory comes back")
	}
	from, conns := c.memory.Resume()
	query := protocol.Resume{From: from, Conns: conns}.AddTo("")
	if _, err := c.dial(i, "/?"+query); err != nil {
		c.t.Fatalf("connect as %q to node %d: %v", c.seat.identity.User, i, err)
	}
	c.missed, c.missing = nil, false
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	welcome, _ := c.next(ctx)
	open := 0 // partitions whose resume has not ended
	for _, p := range welcome.Positions {
		if welcome.Resumed && p != (history.Point{}) {
			open++
		}
	}
	for open > 0 {
		f, message := c.next(ctx)
		if message {
			c.missed = append(c.missed, f.Body)
		}
		if f.Verdict != device.NoVerdict {
			open--
		}
	}
	complete, c.missing = !c.missing, false
	return complete
}

// ExpectGap receives until the client is told that something may be missing, unless
// it has been told since the last ExpectGap or ComeBack. A message that comes first
// fails the test.
func (c *Client) ExpectGap() {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	for !c.missing {
		if len(c.missed) > 0 {
			c.t.Fatalf("received %q, expected to be told of a gap", c.missed[0])
		}
		if f, message := c.next(ctx); message {
			c.t.Fatalf("received %q, expected to be told of a gap", f.Body)
		}
	}
	c.missing = false
}

// next reads the next frame, and reports whether it is a message for the client.
func (c *Client) next(ctx context.Context) (f protocol.Frame, message bool) {
	c.t.Helper()
	_, data, err := c.conn.Read(ctx)
	if err == nil {
		f, message, err = c.hear(data)
	}
	if err != nil {
		c.t.Fatalf("receive: %v", err)
	}
	return f, message
}

// hear takes what came, and reports whether it is a message for the client.
func (c *Client) hear(data []byte) (f protocol.Frame, message bool, err error) {
	if f, err = protocol.ParseFrame(data); err != nil {
		return f, false, fmt.Errorf("%q: %w", data, err)
	}
	message, missing := c.memory.Receive(f.Frame)
	c.missing = c.missing || missing
	return f, message, nil
}
