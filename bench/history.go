package main

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// What is kept, and for how long: the same for all that keep.
const (
	retention = 5 * time.Minute
	keepEach  = 100 // messages of a channel, for centrifuge; herald counts bytes
)

// missed is how many messages each client that comes back has missed.
const missed = 20

// keepers are those that -history compares. The sends of herald-history are to plain
// clients, those of herald-resume to clients that can come back, as all of centrifuge's
// can.
var keepers = []string{"herald", "herald-history", "herald-resume", "centrifuge", "centrifuge-history"}

// keepMakers starts a node of each that keeps what is sent.
var keepMakers = map[string]func(redisAddr string) (server, error){
	"herald-history":     newKeepingHerald,
	"herald-resume":      newKeepingHerald,
	"centrifuge-history": newKeepingCentrifuge,
}

func newKeepingHerald(redisAddr string) (server, error) {
	return startHerald(redisAddr, retention, false)
}

func newKeepingCentrifuge(redisAddr string) (server, error) {
	return startCentrifuge(redisAddr, centrifugeOptions{keeps: true})
}

func init() {
	protocols["herald-history"] = plain
	protocols["herald-resume"] = protocol{path: "/?user=%s&herald=1"}
	protocols["centrifuge-history"] = protocols["centrifuge"]
}

// A positioner is a server that tells where its log is.
type positioner interface {
	Position(ctx context.Context) (string, error)
}

func position(s server) answer {
	p, ok := s.(positioner)
	if !ok {
		return answer{} // each channel begins at 0
	}
	text, err := p.Position(context.Background())
	if err != nil {
		return answer{Error: err.Error()}
	}
	return answer{Position: text}
}

var historyFigures = []figure{
	{"user128.cpu", "CPU a delivery, sends to users, 128 B", "µs", false},
	{"user128.redis", "CPU of Redis a message to a user", "µs", false},
	{"user128.rate", "deliveries a second, sends to users", "/s", true},
	{"paced.cpu", "CPU a delivery, 10,000 a second to users", "µs", false},
	{"paced.redis", "CPU of Redis a message, 10,000 a second", "µs", false},
	{"quiet.memory", "memory of Redis a quiet topic, with one message of 128 B", "B", false},
	{"resume.cpu", "CPU a client that comes back and has missed 20", "µs", false},
	{"resume.redis", "CPU of Redis a client that comes back and has missed 20", "µs", false},
	{"resume.time", "time for 5,000 that come back and have missed 20 each", "s", false},
}

// history compares what it costs to keep what is sent.
func history(rounds int, short bool, only, profiles string) error {
	kinds, err := choose(only, keepers)
	if err != nil {
		return err
	}
	seen, err := inTurns(kinds, rounds, short, func(kind string, size sizes, redis *redisServer) (figures, error) {
		return measureHistory(kind, size, redis, profiles)
	})
	if err != nil {
		return err
	}
	fmt.Print(historyTable(medians(seen)))
	return nil
}

func historyTable(median map[string]figures) string {
	var b strings.Builder
	fmt.Fprintf(&b, "| figure | %s |\n|---%s|\n", strings.Join(keepers, " | "), strings.Repeat("|---:", len(keepers)))
	for _, f := range historyFigures {
		fmt.Fprintf(&b, "| %s", title(row{Row: f.name, Unit: f.unit}))
		for _, kind := range keepers {
			cell := ""
			if v, ok := median[kind][f.key]; ok {
				cell = number(v)
			}
			fmt.Fprintf(&b, " | %s", cell)
		}
		b.WriteString(" |\n")
	}
	return b.String()
}

// measureHistory measures one of the keepers once.
func measureHistory(kind string, size sizes, redis *redisServer, profiles string) (figures, error) {
	r := &round{kind: kind, sizes: size, redis: redis, seen: make(figures), profiles: profiles}
	steps := []func() error{r.keptSends}
	if keepMakers[kind] != nil && kind != "herald-history" { // whose log is that of herald-resume
		steps = append(steps, r.quiet, r.resumes)
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return r.seen, nil
}

// keptSends measures sends to users, as fast as they go, and at one pace for all.
func (r *round) keptSends() error {
	defer r.close()
	if err := r.open(2, false); err != nil {
		return err
	}
	if err := r.profile("sends"); err != nil {
		return err
	}
	if err := r.sends("user128", r.sizes.small, 128); err != nil {
		return err
	}
	if err := r.profile("paced sends"); err != nil {
		return err
	}
	s, err := r.send(command{To: "user", Count: r.sizes.small / 4, Rate: 10_000, Size: 128})
	if err != nil {
		return err
	}
	r.seen["paced.cpu"] = micros(s.cpu) / float64(s.arrived)
	r.seen["paced.redis"] = micros(s.redis) / float64(s.wanted)
	return r.profile("")
}

// quiet sends one message to each of many users, who are not connected.
func (r *round) quiet() error {
	defer r.close()
	defer func(users int) { r.sizes.users = users }(r.sizes.users)
	r.sizes.users = 0
	if err := r.open(1, false); err != nil {
		return err
	}
	const first = 100 // so that nothing is counted that is there once
	publish := command{Do: "publish", To: "user", Users: first + r.sizes.quiet, Count: first, Senders: senders, Size: 128}
	if _, err := r.nodes[0].do(publish); err != nil {
		return err
	}
	before, err := r.redis.number("memory", "used_memory")
	if err != nil {
		return err
	}
	publish.First, publish.Count = first, r.sizes.quiet
	a, err := r.nodes[0].do(publish)
	if err != nil {
		return err
	}
	if a.Failed > 0 {
		return fmt.Errorf("%d of %d sends failed", a.Failed, r.sizes.quiet)
	}
	after, err := r.redis.number("memory", "used_memory")
	r.seen["quiet.memory"] = (after - before) / float64(r.sizes.quiet)
	return err
}

// resumes has all clients come back at once, each of which has missed some messages.
func (r *round) resumes() error {
	defer r.close()
	if err := r.open(2, false); err != nil {
		return err
	}
	r.load.close()
	r.load = nil
	at, err := r.nodes[0].do(command{Do: "position"})
	if err != nil {
		return err
	}
	count := missed * r.sizes.users
	if _, err := r.nodes[0].do(command{Do: "publish", To: "user", Users: r.sizes.users, Count: count, Senders: senders, Size: 128}); err != nil {
		return err
	}
	if r.load, err = newLoad(comingBack(r.kind, at.Position)); err != nil {
		return err
	}
	r.load.tally.personal.Store(true)
	if err := r.profile("resumes"); err != nil {
		return err
	}
	before, err := r.usage()
	if err != nil {
		return err
	}
	start := time.Now()
	if err := r.load.connectAll(r.takers()[0].addr, 0, 1, r.sizes.users, 128, false); err != nil {
		return err
	}
	r.load.await(int64(count), patience)
	elapsed := time.Since(start)
	after, err := r.usage()
	if err != nil {
		return err
	}
	t := &r.load.tally
	if t.count.Load() != int64(count) || t.sum.Load() != sumOf(0, count) || t.strange.Load() != 0 {
		return fmt.Errorf("of %d messages that were missed %d came", count, t.count.Load())
	}
	n := float64(r.sizes.users)
	r.seen["resume.cpu"] = micros(after.cpu-before.cpu) / n
	r.seen["resume.redis"] = micros(after.redis-before.redis) / n
	r.seen["resume.time"] = elapsed.Seconds()
	return r.profile("")
}

// comingBack is the protocol of clients that have been at a position.
func comingBack(kind, at string) protocol {
	p := protocols[kind]
	if kind == "centrifuge-history" {
		p.greet = func(g *greeter) error {
			// What was missed is in the reply, which is read like all that comes.
			_, err := g.conn.Write(maskedFrame(opText, fmt.Appendf(nil, `{"id":1,"connect":{"subs":{"#%s":{"recover":true}}}}`, g.user)))
			return err
		}
		return p
	}
	p.path += "&herald.from=" + at
	return p
}
