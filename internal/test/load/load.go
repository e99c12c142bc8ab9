// Package load sends messages through hubs for tests, and accounts for each of
// them: what was sent, what arrived, and what was lost in a reported gap.
package load

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/heraldgo/herald"
)

// UserName returns the name of a user by number. Every user belongs to two groups
// of at most ten users, which overlap.
func UserName(i int) string { return fmt.Sprint("user", i) }

// Groups returns the groups of a user in a population of users.
func Groups(user, users int) []string {
	columns := (users + 9) / 10
	return []string{fmt.Sprint("column", user%columns), fmt.Sprint("row", user/10)}
}

// ParseTarget parses a target that is written as "u:a,b" (users), "g:a,b" (groups)
// or "*".
func ParseTarget(s string) herald.Target {
	kind, names, _ := strings.Cut(s, ":")
	switch kind {
	case "u":
		return herald.User(strings.Split(names, ",")...)
	case "g":
		return herald.Group(strings.Split(names, ",")...)
	}
	return herald.Everyone()
}

// pickTarget picks a target. Of 200, 180 are users, 19 are groups, and 1 is
// everyone. Every tenth target of users or groups is a pair. Pairs of groups
// overlap.
func pickTarget(r *rand.Rand, users int) string {
	user := r.IntN(users)
	pair := r.IntN(10) == 0
	switch n := r.IntN(200); {
	case n == 0:
		return "*"
	case n < 20:
		groups := Groups(user, users)
		if pair {
			return "g:" + strings.Join(groups, ",")
		}
		return "g:" + groups[r.IntN(2)]
	case pair:
		return "u:" + UserName(user) + "," + UserName(r.IntN(users))
	default:
		return "u:" + UserName(user)
	}
}

// An Order says what to send.
type Order struct {
	Sender  string // prefix of the senders' names
	Senders int    // goroutines
	Users   int
	Count   int           // messages from each sender; 0 means until told to stop
	Pace    time.Duration // between the messages of a sender
}

// A Record is one call of Send.
type Record struct {
	N          int
	Target     string
	Start, End int64 // Unix nanoseconds
	Err        string
	Why        string // what Send said, if Err is Down or Unknown
}

// These are the usual values of a Record's Err, beside "".
const (
	Down    = "down"    // ErrBusDown: nobody may get it
	Unknown = "unknown" // ErrUnknown: anybody may get it
)

// Run sends as o says, and returns the records of each sender. If o has no Count,
// it ends when stop is closed.
func (o Order) Run(ctx context.Context, hub *herald.Hub, stop <-chan struct{}) map[string][]Record {
	var wg sync.WaitGroup
	all := make([][]Record, o.Senders)
	for i := range all {
		wg.Go(func() { all[i] = o.send(ctx, hub, i, stop) })
	}
	wg.Wait()
	records := make(map[string][]Record)
	for i := range all {
		records[o.sender(i)] = all[i]
	}
	return records
}

func (o Order) sender(i int) string { return o.Sender + "." + strconv.Itoa(i) }

// send sends one message after the other as the i-th sender.
func (o Order) send(ctx context.Context, hub *herald.Hub, i int, stop <-chan struct{}) (records []Record) {
	sender := o.sender(i)
	r := rand.New(rand.NewPCG(uint64(i), uint64(len(sender))))
	pace := time.NewTimer(0)
	defer pace.Stop()
	for n := 0; o.Count == 0 || n < o.Count; n++ {
		if o.Pace > 0 {
			pace.Reset(o.Pace)
			select {
			case <-pace.C:
			case <-stop:
				return records
			}
		}
		records = append(records, Send(ctx, hub, sender, n, pickTarget(r, o.Users), nil))
	}
	return records
}

// Send sends message n of a sender, with padding at its end.
func Send(ctx context.Context, hub *herald.Hub, sender string, n int, target string, padding []byte) Record {
	message := fmt.Appendf(nil, "m %s %d %s ", sender, n, target)
	message = append(message, padding...)
	record := Record{N: n, Target: target, Start: time.Now().UnixNano()}
	err := hub.Send(ctx, ParseTarget(target), herald.Binary(message))
	record.End = time.Now().UnixNano()
	switch {
	case errors.Is(err, herald.ErrUnknown):
		record.Err, record.Why = Unknown, err.Error()
	case errors.Is(err, herald.ErrBusDown):
		record.Err, record.Why = Down, err.Error()
	case err != nil:
		record.Err = err.Error()
	}
	return record
}

// A Receipt is a message that a device has got.
type Receipt struct {
	Sender string
	N      int
	Target string
}

// ParseReceipt parses a message of Send. It returns false if the message is
// something else.
func ParseReceipt(message []byte) (Receipt, bool) {
	words := bytes.SplitN(message, []byte(" "), 5)
	if len(words) < 4 || string(words[0]) != "m" {
		return Receipt{}, false
	}
	n, err := strconv.Atoi(string(words[2]))
	return Receipt{string(words[1]), n, string(words[3])}, err == nil && n >= 0
}
