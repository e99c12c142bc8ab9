package historymodel

import (
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
)

// An action is one step of a run. It can always be taken: if there is nothing to
// do, it does nothing.
type action struct {
	verb verb
	arg  uint32
}

type verb uint8

// The verbs up to roll are normal operation, without a fault of the log.
const (
	send verb = iota
	link
	work
	script
	answer
	socket
	mark
	drop
	come
	visit
	lose
	join
	confirm
	leave
	kill
	cutLink
	connect
	roll

	copyLog
	save
	restart
	fail
	linger
	demote
	thereBack
	migrate
	evict
	trim
	tick
	stepBack
	oom
	abandon
	deaf
	redirect
	unknown
	forge

	// These are told to many, and would hide what others lack, so they are rarer.
	erase
	renew
	retain
	verbs
)

var verbNames = [verbs]string{
	"send", "link", "work", "script", "answer", "socket", "mark", "drop", "come", "visit", "lose", "join", "confirm", "leave",
	"kill", "cutLink", "connect", "roll", "copyLog", "save", "restart", "fail", "linger", "demote", "thereBack",
	"migrate", "evict", "trim", "tick", "stepBack", "oom", "abandon", "deaf", "redirect", "unknown", "forge",
	"erase", "renew", "retain",
}

func (a action) String() string { return fmt.Sprintf("%s %d", verbNames[a.verb], a.arg) }

// weights say how often the verbs of normal operation come.
var weights = [roll]int{
	send: 14, link: 16, work: 16, script: 14, answer: 14, socket: 16, mark: 6, drop: 4, come: 8, visit: 3, lose: 1, join: 3,
	confirm: 4, leave: 2, kill: 1, cutLink: 3, connect: 6,
}

// themes list verbs that some runs have more of, because they are rare otherwise.
var themes = [][]verb{
	{linger, visit, visit, cutLink, connect},                   // devices move to and fro between two masters
	{join, leave, confirm, confirm, cutLink, connect, connect}, // the topics that are asked for change
	{trim, evict, drop, come, come},                            // the log loses what is still asked for
	{fail, demote, drop, come, script},                         // resumes across a failover are cut
	{send, cutLink, connect, connect, socket},                  // links break within a message
}

// length is the number of actions in a run.
const length = 160

// A plan is a run: its world and its actions.
type plan struct {
	calm    bool // the log loses nothing, and no queue drops
	bytes   int  // the size of a log
	groups  [devices]set
	actions []action
}

// newPlan returns the plan of a seed. Each plan has some kinds of faults often, and
// no others.
func newPlan(seed uint64, calm bool) plan {
	rng := rand.New(rand.NewPCG(seed, 0x6865726c))
	p := plan{calm: calm, bytes: 40, actions: make([]action, length)}
	if rng.IntN(2) == 0 {
		p.bytes = 400
	}
	for i := range p.groups {
		p.groups[i] = set(1 + rng.IntN(1<<len(topics)-1))
	}
	var pool []verb
	for v, n := range weights {
		if verb(v) == visit && rng.IntN(2) == 0 {
			continue
		}
		for range n {
			pool = append(pool, verb(v))
		}
	}
	for v := roll + 1; v < erase && !calm; v++ {
		if rng.IntN(4) == 0 {
			pool = append(pool, v, v, v, v)
		}
	}
	if theme := themes[rng.IntN(len(themes))]; !calm && rng.IntN(4) > 0 {
		for range 5 {
			pool = append(pool, theme...)
		}
	}
	if v := verb(seed % uint64(verbs)); !calm && v >= erase {
		pool = append(pool, v, v, v, v)
	}
	for i := range p.actions {
		p.actions[i] = action{pool[rng.IntN(len(pool))], rng.Uint32()}
	}
	return p
}

// run carries out the plan, ends all faults, and returns what is wrong.
func (p plan) run(hits *counts) (finding string) { return p.watch(hits, nil) }

// watch is run, but writes to trace what happens.
func (p plan) watch(hits *counts, trace io.Writer) (finding string) {
	w := newWorld(p, hits)
	w.start()
	w.trace = trace
	for _, a := range p.actions {
		w.step++
		if trace != nil {
			fmt.Fprintf(trace, "\t%d: %v\n", w.step, a)
		}
		w.take(a)
		if w.finding != "" {
			return w.finding
		}
	}
	w.heal()
	if p.calm && w.tolds > 0 {
		w.fail("a device was told, and nothing had been lost")
	}
	return w.finding
}

// shrink returns a plan with fewer actions that still finds a fault.
func (p plan) shrink() plan {
	for size := len(p.actions) / 2; size > 0; size /= 2 {
		for i := 0; i+size <= len(p.actions); {
			part := p
			part.actions = slices.Concat(p.actions[:i], p.actions[i+size:])
			if part.run(new(counts)) != "" {
				p = part
			} else {
				i += size
			}
		}
	}
	return p
}

// report returns what a plan finds, which of its actions suffice, and what happens
// in it.
func (p plan) report() string {
	p = p.shrink()
	var b strings.Builder
	finding := p.watch(new(counts), &b)
	return fmt.Sprintf("%s\n%d actions of %d suffice; %d bytes are kept, the groups are %05b:\n%s",
		finding, len(p.actions), length, p.bytes, p.groups, &b)
}
