package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// compressing are those whose compression -compress measures. Each is measured as it is,
// and again as another kind whose name ends with deflateSuffix: there the server has
// permessage-deflate, and every client agrees on it.
var compressing = []string{"herald", "centrifuge", "centrifuge-tuned", "gws", "socket.io", "floor"}

const deflateSuffix = "-deflate"

// deflateMakers starts a node of each that compresses and is written in Go.
var deflateMakers = map[string]func(redisAddr string) (server, error){
	"herald-deflate": func(addr string) (server, error) { return startHerald(addr, 0, true) },
	"centrifuge-deflate": func(addr string) (server, error) {
		return startCentrifuge(addr, centrifugeOptions{deflates: true})
	},
	"centrifuge-tuned-deflate": func(addr string) (server, error) {
		return startCentrifuge(addr, centrifugeOptions{tuned: true, deflates: true})
	},
	"gws-deflate":   func(addr string) (server, error) { return newGWS(addr, true) },
	"floor-deflate": func(string) (server, error) { return newFloor(true) },
}

func init() {
	for _, kind := range compressing {
		p := protocols[kind]
		p.offers = true
		protocols[kind+deflateSuffix] = p
	}
}

// compressSizes says how much of everything one round of -compress does.
type compressSizes struct {
	idle       int // connections that hold what compression takes
	members    int // connections, which all are in the group
	messages   int // to one user each, of each size
	broadcasts int // to the group, of each size

	rest time.Duration // before memory is looked at
}

var fullCompression = compressSizes{idle: 1000, members: 100, messages: 1500, broadcasts: 30, rest: time.Second / 2}

// Messages a second: few enough for all contestants, so that none is measured while
// messages wait and are joined.
const (
	usersRate = 2000
	groupRate = 40
)

// bodySizes are the sizes of messages.
var bodySizes = []struct {
	key, name string
	bytes     int
}{{"128", "128 B", 128}, {"1k", "1 KB", 1024}, {"4k", "4 KB", 4096}}

// compressFigures are the rows of the table.
func compressFigures() []figure {
	var list []figure
	toGroup := fmt.Sprintf("to a group of %d", fullCompression.members)
	each := func(key, name, unit string) {
		for _, to := range []struct{ key, name string }{{"user", "to a user"}, {"group", toGroup}} {
			for _, size := range bodySizes {
				list = append(list, figure{to.key + size.key + key, fmt.Sprintf("%s, %s %s", name, size.name, to.name), unit, false})
			}
		}
	}
	each(".bytes", "bytes a delivery", "")
	each(".cpu", "CPU a delivery", "µs")
	return append(list,
		figure{"user1k.p50", "latency, 1 KB to a user, p50", "ms", false},
		figure{"user1k.p99", "latency, 1 KB to a user, p99", "ms", false},
		figure{"group4k.p50", "latency, 4 KB " + toGroup + ", p50", "ms", false},
		figure{"group4k.p99", "latency, 4 KB " + toGroup + ", p99", "ms", false},
		figure{"idle.rss", "resident memory a connection, idle", "KB", false},
		figure{"used.rss", "the same after one message of 1 KB", "KB", false},
	)
}

// compress measures what compression costs and saves.
func compress(rounds int, only string) error {
	kinds, err := choose(only, compressing)
	if err != nil {
		return err
	}
	kinds = installed(kinds)
	var both []string
	for _, kind := range kinds {
		both = append(both, kind, kind+deflateSuffix)
	}
	texts, err := newTexts()
	if err != nil {
		return err
	}
	defer texts.remove()
	seen, err := inTurns(both, rounds, false, func(kind string, _ sizes, redis *redisServer) (figures, error) {
		return measureCompression(kind, fullCompression, texts, redis)
	})
	if err != nil {
		return err
	}
	fmt.Print(compressTable(medians(seen), kinds))
	for _, kind := range both {
		lost := 0.0
		for _, f := range seen[kind] {
			lost += f["lost"]
		}
		if lost > 0 {
			fmt.Printf("\n%s lost %v of its deliveries.\n", kind, lost)
		}
	}
	return nil
}

// compressTable returns a line a figure and a column a contestant: what it is without
// compression, and what it is with.
func compressTable(median map[string]figures, kinds []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "| without → with compression | %s |\n|---%s|\n", strings.Join(kinds, " | "), strings.Repeat("|---:", len(kinds)))
	for _, f := range compressFigures() {
		fmt.Fprintf(&b, "| %s", title(row{Row: f.name, Unit: f.unit}))
		for _, kind := range kinds {
			fmt.Fprintf(&b, " | %s → %s", number(median[kind][f.key]), number(median[kind+deflateSuffix][f.key]))
		}
		b.WriteString(" |\n")
	}
	return b.String()
}

// texts are the bodies of each size, and the files that nodes read them from.
type texts struct {
	dir    string
	bodies map[string]bodies
}

func newTexts() (*texts, error) {
	dir, err := os.MkdirTemp("", "herald-bench-")
	if err != nil {
		return nil, err
	}
	t := &texts{dir, make(map[string]bodies)}
	for _, size := range bodySizes {
		t.bodies[size.key] = newBodies(size.bytes)
		if err := t.bodies[size.key].write(t.file(size.key)); err != nil {
			t.remove()
			return nil, err
		}
	}
	return t, nil
}

func (t *texts) file(size string) string { return filepath.Join(t.dir, size+".json") }

func (t *texts) remove() { os.RemoveAll(t.dir) }

// measureCompression measures one kind once.
func measureCompression(kind string, size compressSizes, texts *texts, redis *redisServer) (figures, error) {
	r := &compressRound{
		round: round{kind: kind, redis: redis, seen: make(figures)},
		size:  size,
		texts: texts,
	}
	for _, step := range []func() error{r.memory, r.traffic} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return r.seen, nil
}

// A compressRound is a round of -compress.
type compressRound struct {
	round
	size  compressSizes
	texts *texts
}

// open starts nodes without clients.
func (r *compressRound) open(count int) error {
	r.sizes.users = 0
	if err := r.round.open(count, false); err != nil {
		return err
	}
	r.load.later = true
	return nil
}

func (r *compressRound) connect(users int) error {
	r.sizes.users = users
	return r.load.connectAll(r.takers()[0].addr, 0, 1, users, 128, false)
}

// use makes the messages be of one size from now on.
func (r *compressRound) use(size string) error {
	r.load.bodies = r.texts.bodies[size]
	for _, n := range r.nodes {
		if _, err := n.do(command{Do: "bodies", Path: r.texts.file(size)}); err != nil {
			return err
		}
	}
	return nil
}

// memory looks at what connections take, before the first message and after it.
func (r *compressRound) memory() error {
	defer r.close()
	if err := r.open(1); err != nil {
		return err
	}
	if err := r.use("1k"); err != nil {
		return err
	}
	// One client, and a message to it, so that nothing is counted that any first one costs.
	if err := r.connect(1); err != nil {
		return err
	}
	message := command{To: "everyone", Count: 1, Senders: 1, Size: 1024}
	if err := r.untilAll(message); err != nil {
		return err
	}
	before, err := r.settle()
	if err != nil {
		return err
	}
	if err := r.connect(r.size.idle); err != nil {
		return err
	}
	idle, err := r.settle()
	if err != nil {
		return err
	}
	if err := r.untilAll(message); err != nil {
		return err
	}
	used, err := r.settle()
	if err != nil {
		return err
	}
	n := float64(r.size.idle)
	r.seen["idle.rss"] = float64(idle-before) / n / 1024
	r.seen["used.rss"] = float64(used-before) / n / 1024
	return nil
}

// settle returns the resident memory of the node that takes the clients.
func (r *compressRound) settle() (int64, error) {
	time.Sleep(r.size.rest)
	a, err := r.takers()[0].do(command{Do: "settle"})
	return a.RSS, err
}

// untilAll sends until all of it arrives: a server may take a client before it hears what
// is sent to it.
func (r *compressRound) untilAll(c command) error {
	for range 5 {
		s, err := r.send(c)
		if err != nil || s.arrived == s.wanted {
			return err
		}
	}
	return errors.New("messages do not arrive")
}

// traffic sends messages of each size to users one by one, and to all of them as a group.
func (r *compressRound) traffic() error {
	defer r.close()
	count := 2
	if strings.HasPrefix(r.kind, "floor") {
		count = 1
	}
	if err := r.open(count); err != nil {
		return err
	}
	if err := r.connect(r.size.members); err != nil {
		return err
	}
	if err := r.untilAll(command{To: "user", Count: r.size.members, Senders: 1, Size: 128}); err != nil {
		return err
	}
	for _, to := range []struct {
		key string
		command
	}{
		{"user", command{To: "user", Count: r.size.messages, Rate: usersRate}},
		{"group", command{To: "everyone", Count: r.size.broadcasts, Rate: groupRate}},
	} {
		for _, size := range bodySizes {
			if err := r.use(size.key); err != nil {
				return err
			}
			c := to.command
			c.Size = size.bytes
			key := to.key + size.key
			s, err := r.timed(key, c)
			if err != nil {
				return fmt.Errorf("%s: %w", key, err)
			}
			n := float64(max(s.arrived, 1))
			r.seen["lost"] += float64(s.wanted - s.arrived)
			r.seen[key+".bytes"] = float64(s.bytes) / n
			r.seen[key+".cpu"] = micros(s.cpu) / n
		}
	}
	return nil
}
