package historymodel

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// An action is one step of a run. Whatever it is about, it can be taken: if there
// is nothing to do, it does nothing.
type action struct {
	verb verb
	arg  uint32
}

type verb uint8

// The verbs. Those up to roll are life without a fault of the log.
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
	verbs
)

var verbNames = [verbs]string{
	"send", "link", "work", "script", "answer", "socket", "mark", "drop", "come", "lose", "join", "confirm", "leave",
	"kill", "cutLink", "connect", "roll", "copyLog", "save", "restart", "fail", "linger", "demote", "thereBack",
	"migrate", "evict", "trim", "tick", "stepBack", "oom", "abandon", "deaf", "redirect", "unknown", "forge",
}

func (a action) String() string { return fmt.Sprintf("%s %d", verbNames[a.verb], a.arg) }

// weights say how often the verbs of life come.
var weights = [roll]int{
	send: 14, link: 16, work: 16, script: 14, answer: 14, socket: 16, mark: 6, drop: 4, come: 8, lose: 1, join: 2,
	confirm: 3, leave: 1, kill: 1, cutLink: 2, connect: 5,
}

// length is how many actions a run has.
const length = 160

// plan returns the actions of a seed. Each run has some kinds of faults, often, and
// none of the others.
func plan(seed uint64, calm bool) []action {
	rng := rand.New(rand.NewPCG(seed, 0x6865726c))
	var pool []verb
	for v, n := range weights {
		for range n {
			pool = append(pool, verb(v))
		}
	}
	for v := roll + 1; v < verbs && !calm; v++ {
		if rng.IntN(4) == 0 {
			pool = append(pool, v, v, v)
		}
	}
	actions := make([]action, length)
	for i := range actions {
		actions[i] = action{pool[rng.IntN(len(pool))], rng.Uint32()}
	}
	return actions
}

// run takes the actions, heals all, and returns what it found to be wrong.
func run(actions []action, hits *Hits, calm bool) (finding string) {
	w := newWorld(hits)
	w.phones[0].oldest = !calm
	w.start()
	for _, a := range actions {
		w.step++
		w.take(a)
		if w.finding != "" {
			return w.finding
		}
	}
	w.heal()
	if calm && w.tolds > 0 {
		w.fail("a device was told, and nothing had been lost")
	}
	return w.finding
}

// shrink returns a part of the actions that still finds something.
func shrink(actions []action, calm bool) []action {
	for size := len(actions) / 2; size > 0; size /= 2 {
		for i := 0; i+size <= len(actions); {
			part := append(append([]action(nil), actions[:i]...), actions[i+size:]...)
			if run(part, new(Hits), calm) != "" {
				actions = part
			} else {
				i += size
			}
		}
	}
	return actions
}

// report returns what a seed finds, and how to see it again.
func report(seed uint64, calm bool) string {
	actions := shrink(plan(seed, calm), calm)
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d: %s\n%d actions of %d suffice:\n", seed, run(actions, new(Hits), calm), len(actions), length)
	for _, a := range actions {
		fmt.Fprintf(&b, "\t%v\n", a)
	}
	return b.String()
}
