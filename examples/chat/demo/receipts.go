package demo

import (
	"context"
	"fmt"
	"time"

	"github.com/heraldgo/herald"
)

const (
	receiptTime = 10 * time.Second // for the receipts of a direct message
	maxWaiting  = 256              // direct messages of a node that wait for receipts
)

// direct sends a message to a user, and to the sender's own devices. The sender is
// told whether the user has received it. The receipt of the sender's own connection
// can come only when OnMessage has returned, so another goroutine waits, unless too
// many wait already.
func (n *node) direct(ctx context.Context, c *herald.Conn, out frame) {
	target := herald.User(out.To, c.User())
	select {
	case n.waiting <- struct{}{}:
		n.workers.Go(func() {
			defer func() { <-n.waiting }()
			n.deliver(c, target, out)
		})
	default:
		notSent(c, out, c.Hub().Send(ctx, target, herald.JSON(out)))
	}
}

func (n *node) deliver(c *herald.Conn, target herald.Target, out frame) {
	ctx, cancel := context.WithTimeout(n.stopped, receiptTime)
	defer cancel()
	d, err := c.Hub().Deliver(ctx, target, herald.JSON(out))
	if err != nil {
		notSent(c, out, err)
		return
	}
	receipt := frame{Type: "receipt", To: out.To, ID: out.ID}
	receipt.State, receipt.Text = n.fate(count(d.Received, out.To), count(d.Missed, out.To))
	c.Send(herald.JSON(receipt))
}

// count returns how many of the sessions are the user's.
func count(sessions []herald.Session, user string) (n int) {
	for _, s := range sessions {
		if s.User == user {
			n++
		}
	}
	return n
}

// fate says in one word, and in a sentence, what became of a message, given how many
// of its receiver's devices have it and how many have not.
func (n *node) fate(received, missed int) (state, text string) {
	later := ""
	switch {
	case received == 1:
		return "received", "received"
	case received > 1:
		return "received", fmt.Sprintf("received on %d devices", received)
	case missed > 0:
		if n.keeps() {
			later = ", and gets it when one is there again"
		}
		return "missed", "has no device that answers" + later
	default:
		if n.keeps() {
			later = fmt.Sprintf(". A tab that comes back within %.0f minutes gets it; a new one does not", retention.Minutes())
		}
		return "away", "is away now" + later
	}
}
