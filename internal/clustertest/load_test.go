package clustertest

import (
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

// The population: every user has three devices and belongs to two groups of
// at most ten users, whose members overlap.

func userName(i int) string { return fmt.Sprint("user", i) }

func groupsOf(user, users int) []string {
	return []string{fmt.Sprint("column", user%columns(users)), fmt.Sprint("row", user/10)}
}

func columns(users int) int { return (users + 9) / 10 }

// A target is written as "u:a,b" (users), "g:a,b" (groups) or "*".
func parseTarget(s string) herald.Target {
	kind, names, _ := strings.Cut(s, ":")
	switch kind {
	case "u":
		return herald.User(strings.Split(names, ",")...)
	case "g":
		return herald.Group(strings.Split(names, ",")...)
	}
	return herald.Everyone()
}

// pickTarget picks one: of 200, 180 are users, 19 groups, 1 everyone. Every
// tenth of users and groups is a pair; pairs of groups overlap.
func pickTarget(r *rand.Rand, users int) string {
	user := r.IntN(users)
	pair := r.IntN(10) == 0
	switch n := r.IntN(200); {
	case n == 0:
		return "*"
	case n < 20:
		groups := groupsOf(user, users)
		if pair {
			return "g:" + strings.Join(groups, ",")
		}
		return "g:" + groups[r.IntN(2)]
	case pair:
		return "u:" + userName(user) + "," + userName(r.IntN(users))
	default:
		return "u:" + userName(user)
	}
}

// An order tells a node to send.
type order struct {
	Sender  string // prefix of the senders' names
	Senders int    // goroutines
	Users   int
	Count   int           // messages a sender; 0: until told to stop
	Pace    time.Duration // between the messages of a sender
}

// A record is one call of Send.
type record struct {
	N          int
	Target     string
	Start, End int64 // Unix nanoseconds
	Err        string
}

// What a record's Err is, where it is not empty or something unexpected.
const (
	down    = "down"    // ErrBusDown: nobody may get it
	unknown = "unknown" // ErrUnknown: anybody may get it
)

// load is what a node sends.
type load struct {
	mu       sync.Mutex
	stopping chan struct{} // closed to end the load without a count
}

// run sends as ordered, and returns the records of each sender.
func (l *load) run(ctx context.Context, hub *herald.Hub, o order) map[string][]record {
	stopping := make(chan struct{})
	if o.Count == 0 {
		l.mu.Lock()
		l.stopping = stopping
		l.mu.Unlock()
	}
	var wg sync.WaitGroup
	all := make([][]record, o.Senders)
	for i := range all {
		wg.Go(func() { all[i] = send(ctx, hub, o, i, stopping) })
	}
	wg.Wait()
	records := make(map[string][]record)
	for i := range all {
		records[senderName(o, i)] = all[i]
	}
	return records
}

func (l *load) stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.stopping)
}

func senderName(o order, i int) string { return o.Sender + "." + strconv.Itoa(i) }

// send is one sender: it sends one message after the other.
func send(ctx context.Context, hub *herald.Hub, o order, i int, stopping <-chan struct{}) (records []record) {
	sender := senderName(o, i)
	r := rand.New(rand.NewPCG(uint64(i), uint64(len(sender))))
	pace := time.NewTimer(0)
	defer pace.Stop()
	for n := 0; o.Count == 0 || n < o.Count; n++ {
		if o.Pace > 0 {
			pace.Reset(o.Pace)
			select {
			case <-pace.C:
			case <-stopping:
				return records
			}
		}
		record := record{N: n, Target: pickTarget(r, o.Users)}
		text := fmt.Sprintf("m %s %d %s", sender, n, record.Target)
		record.Start = time.Now().UnixNano()
		err := hub.Send(ctx, parseTarget(record.Target), herald.Text(text))
		record.End = time.Now().UnixNano()
		switch {
		case errors.Is(err, herald.ErrUnknown):
			record.Err = unknown
		case errors.Is(err, herald.ErrBusDown):
			record.Err = down
		case err != nil:
			record.Err = err.Error()
		}
		records = append(records, record)
	}
	return records
}
