package attacktest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// A state is what a node uses at one moment.
type state struct {
	at                 time.Time
	memory             int64 // after a garbage collection
	cpu                time.Duration
	redisCommands      int64
	redisMemory        int64
	logLines, logBytes int64
	report
}

func (n *node) state() state {
	n.t.Helper()
	s := state{report: n.report(true), at: time.Now(), memory: n.memory(), cpu: n.cpu(),
		redisCommands: n.redisInfo("total_commands_processed"), redisMemory: n.redisInfo("used_memory")}
	s.logLines, s.logBytes = n.log.count()
	return s
}

// A watcher records the peaks of a node until it is stopped.
type watcher struct {
	node *node
	stop chan struct{}
	end  sync.WaitGroup

	memory      int64
	redisMemory int64
}

func (n *node) watch() *watcher {
	w := &watcher{node: n, stop: make(chan struct{})}
	w.end.Go(func() {
		ticker := time.NewTicker(50 * time.Millisecond)
		defer ticker.Stop()
		for {
			select {
			case <-w.stop:
				return
			case <-ticker.C:
			}
			w.memory = max(w.memory, n.memory())
			w.redisMemory = max(w.redisMemory, n.redisInfo("used_memory"))
		}
	})
	return w
}

func (w *watcher) done() {
	close(w.stop)
	w.end.Wait()
}

// An effect is what an attack did to a node.
type effect struct {
	before, during state
	after          report // when the attack is over and all messages have arrived
	peak           *watcher
	victim         logins
	honest         fate
	back           time.Duration // how long it took to be back to normal
}

func mb(bytes int64) string { return fmt.Sprintf("%.1f MB", float64(bytes)/(1<<20)) }

// row returns a line of the table.
func (e effect) row(name string, c cost) string {
	d := e.during
	seconds := d.at.Sub(e.before.at).Seconds()
	rate := func(n int64) string { return fmt.Sprintf("%.0f/s", float64(n)/seconds) }
	return strings.Join([]string{
		name,
		c.row(seconds),
		fmt.Sprintf("RSS +%s, kept +%s; goroutines +%d; CPU %.0f%%; Authenticate %s; OnOnline %s",
			mb(e.peak.memory-e.before.memory), mb(d.memory-e.before.memory), d.GoroutinesPeak-e.before.Goroutines,
			100*(d.cpu-e.before.cpu).Seconds()/seconds, rate(d.Authenticates-e.before.Authenticates), rate(d.Onlines-e.before.Onlines)),
		fmt.Sprintf("Redis %s, +%s; log %s, %s", rate(d.redisCommands-e.before.redisCommands), mb(e.peak.redisMemory-e.before.redisMemory),
			rate(d.logLines-e.before.logLines), mb(d.logBytes-e.before.logBytes)),
		fmt.Sprintf("logins %d of %d, p50 %v, p99 %v%s; messages %d of %d, p50 %v, p99 %v, lost %d, compressed %d%s",
			e.victim.good, e.victim.tried, percentile(e.victim.latencies, 50), percentile(e.victim.latencies, 99), failures(e.victim.failures),
			e.honest.got, e.honest.sent, percentile(e.honest.latencies, 50), percentile(e.honest.latencies, 99), e.honest.lost, e.honest.packed, e.honest.told()),
		changes(e.before.Stats, d.Stats, e.after.Stats),
		e.back.Round(100 * time.Millisecond).String(),
	}, " | ")
}

// row describes the cost of an attack that lasted so many seconds.
func (c cost) row(seconds float64) string {
	return fmt.Sprintf("%d connections, %.0f/s requests, %s out, %s in; %s", c.Conns, float64(c.Requests)/seconds, mb(c.Sent), mb(c.Got), counts(c.Answers))
}

// add adds what another attack cost.
func (c *cost) add(other cost) {
	c.Conns += other.Conns
	c.Requests += other.Requests
	c.Sent += other.Sent
	c.Got += other.Got
	if c.Answers == nil {
		c.Answers = make(map[string]int)
	}
	for answer, n := range other.Answers {
		c.Answers[answer] += n
	}
}

const header = "attack | attacker | node | Redis, log | honest | Stats | back to normal"

// counts lists the answers, the most frequent first.
func counts(answers map[string]int) string {
	var all []string
	for _, a := range slices.SortedFunc(maps.Keys(answers), func(a, b string) int { return answers[b] - answers[a] }) {
		all = append(all, fmt.Sprintf("%d × %s", answers[a], a))
	}
	return strings.Join(all, ", ")
}

func failures(f map[string]int) string {
	if len(f) == 0 {
		return ""
	}
	return " (" + counts(f) + ")"
}

// changes lists the counters that grew, without those of honest traffic. Gauges are
// given as they were during the attack.
func changes(before, during, after map[string]float64) string {
	usual := []string{"Sent", "Received", "Delivered", "Written", "MessagesReceived", "Topics", "Users", "Lingering"}
	var all []string
	for _, name := range slices.Sorted(maps.Keys(after)) {
		grown := max(after[name], during[name]) - before[name]
		if grown != 0 && !slices.Contains(usual, name) {
			all = append(all, fmt.Sprintf("%s %+.0f", name, grown))
		}
	}
	return strings.Join(all, ", ")
}
