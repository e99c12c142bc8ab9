package redislog

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald/internal/history"
	"github.com/heraldgo/herald/internal/history/store"
	"github.com/heraldgo/herald/internal/test/redistest"
)

const (
	// batchesEnv sets how many batches a test appends, and seedEnv the seed of the
	// first round. With a seed but no number of batches, only the round of that
	// seed runs.
	batchesEnv = "HERALD_HISTORY_BATCHES"
	seedEnv    = "HERALD_HISTORY_SEED"

	batchesOfRound = 50
	patience       = 30 * time.Second
)

// The scripts do the same as store.Log, whatever happens to their keys.
func TestScripts(t *testing.T) {
	server := redistest.StartWithClock(t, "--enable-debug-command", "yes")
	differ(t, &rig{rdb: server.Client(), step: server.Step, debug: true}, 2000)
}

// They also do on miniredis.
func TestScriptsOnMiniredis(t *testing.T) {
	server := miniredis.RunT(t)
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr()})
	t.Cleanup(func() { rdb.Close() })
	at := time.Now()
	server.SetTime(at)
	differ(t, &rig{rdb: rdb, step: func(d time.Duration) {
		at = at.Add(d)
		server.SetTime(at)
	}}, 200)
}

func envNumber(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

func differ(t *testing.T, r *rig, batches int) {
	r.listen(t)
	batches = envNumber(t, batchesEnv, batches)
	begin, first := time.Now(), envNumber(t, seedEnv, 0)
	alone := os.Getenv(seedEnv) != "" && os.Getenv(batchesEnv) == ""
	if alone {
		batches = 1
	}
	done := make(map[string]int)
	for seed := first; done["append"] < batches; seed++ {
		run := newRun(t, r, seed, done)
		for n := done["append"] + batchesOfRound; done["append"] < n && !t.Failed(); {
			run.act()
		}
		if t.Failed() {
			t.Fatalf("again: env -u %s %s=%d go test -run '^%s$'", batchesEnv, seedEnv, seed, t.Name())
		}
	}
	fmt.Printf("%s: %d batches, %.0f a second\n", t.Name(), done["append"], float64(done["append"])/time.Since(begin).Seconds())
	for _, what := range slices.Sorted(maps.Keys(done)) {
		t.Logf("%8d  %s", done[what], what)
	}
	if alone {
		return
	}
	for _, what := range mustHappen {
		if done[what] == 0 && (r.debug || what != "expired") { // nothing expires by SetTime
			t.Errorf("never: %s", what)
		}
	}
}

// mustHappen lists the events without which a test proves nothing.
var mustHappen = []string{
	"taken", "wrong epoch", "wrong segment", "unkept batch", "new table", "new epoch", "contradicted", "segment begun",
	"segment removed", "lost table", "lost segment", "expired", "whole", "cut", "forked", "survey read", "read missing", "read elsewhere", "read ahead",
	"forgotten", "renewed", "node started", "told of an agreement", "copied",
}

// A run has one log in Redis, and its twin in store.Log.
type run struct {
	t     *testing.T
	r     *rig
	rand  *rand.Rand
	done  map[string]int
	log   *Log
	twin  *store.Log
	known []history.Point // points that some node knew, the newest last
	guess uint64
	body  int
}

var topics = func() (names []string) {
	for i := range 12 {
		names = append(names, fmt.Sprintf("g%d:1 \n%d", i, i))
	}
	return names
}()

func newRun(t *testing.T, r *rig, seed int, done map[string]int) *run {
	x := rand.New(rand.NewPCG(uint64(seed), 15))
	limits := store.Limits{Segment: history.Offset(4 + x.IntN(8)), Age: 200_000, Bytes: 100 + x.IntN(3000)}
	if x.IntN(4) == 0 {
		limits.Segment *= 16
	}
	r.do(t, "FLUSHALL")
	u := &run{
		t: t, r: r, rand: x, done: done, twin: store.New(limits.Segment), known: make([]history.Point, 1),
		log: New(Config{Client: r.rdb, Limits: limits, Keys: "k:", Topics: "c:", Fences: "f", Cluster: x.IntN(4) == 0, Copies: NewBudget(x.IntN(3) * 4000)}),
	}
	u.log.copies.least = 1 + x.IntN(4)
	if x.IntN(2) == 0 {
		u.log.bounds = bounds{drafts: 64, topics: 1024, asked: 4, chains: 2, segments: 2, walked: 3, whole: 1 + x.IntN(4), read: 4, bytes: 60, stale: 1}
	}
	return u
}

// act does one thing to both logs, and compares everything in them afterwards.
func (u *run) act() {
	u.t.Helper()
	switch x := u.rand.IntN(100); {
	case x < 40:
		u.append()
	case x < 48:
		u.fence()
	case x < 60:
		u.survey()
	case x < 68:
		u.read()
	case x < 74:
		u.trim()
	case x < 76:
		u.forget()
	case x < 77:
		u.renew()
	case x < 78:
		u.start()
	case x < 92:
		d := time.Duration(u.rand.IntN(100)-20) * time.Second
		u.expire(d)
		u.r.step(d)
	case x < 93:
		u.lose("t")
		u.twin.LoseTable()
		u.count("lost table")
	case x < 95:
		if segments := u.twin.Segments(); len(segments) > 0 {
			u.loseSegment(segments[u.rand.IntN(len(segments))])
			u.count("lost segment")
		}
	case x < 96:
		u.r.do(u.t, "FLUSHALL")
		u.twin.LoseTable()
		for _, n := range u.twin.Segments() {
			u.twin.LoseSegment(n)
		}
	case x < 98:
		if u.r.debug {
			u.r.do(u.t, "DEBUG", "CHANGE-REPL-ID")
		}
	default: // scripts may be forgotten too
		u.r.do(u.t, "SCRIPT", "FLUSH")
	}
	if has, want := u.r.state(u.t, u.log), u.twin.String(); has != want {
		u.t.Errorf("Redis has\n%s\nand the twin\n%s", has, want)
	}
}

func (u *run) count(what string) { u.done[what]++ }

func (u *run) lose(key string) { u.r.do(u.t, "DEL", "k:"+key) }

func (u *run) loseSegment(n uint64) {
	u.lose(fmt.Sprint("s:", n))
	u.twin.LoseSegment(n)
	u.loseCopy(n)
}

// loseCopy makes the log forget its copy of a segment, which otherwise outlives the
// segment.
func (u *run) loseCopy(n uint64) {
	c := &u.log.copies
	if s := c.segments[n]; s != nil {
		c.empty(s)
	}
}

// expire removes from both logs the keys that would expire within this time, so
// that none expires by itself. Every key must have a time to expire.
func (u *run) expire(within time.Duration) {
	u.t.Helper()
	for _, key := range u.r.keys(u.t) {
		left, err := u.r.rdb.PTTL(u.t.Context(), key).Result()
		if err != nil || left < 0 || left > time.Hour { // the clock also steps back
			u.t.Fatalf("%s expires in %v, %v", key, left, err)
		}
		if left > within+2*patience {
			continue
		}
		u.r.do(u.t, "DEL", key)
		if key == "k:t" {
			u.twin.LoseTable()
		} else if n, err := strconv.ParseUint(key[len("k:s:"):], 10, 64); err == nil {
			u.twin.LoseSegment(n)
			u.loseCopy(n)
		}
		u.count("expired")
	}
}

// pick returns a point that some node may know, or one that none does.
func (u *run) pick() history.Point {
	p := u.known[len(u.known)-1]
	switch u.rand.IntN(30) {
	case 0:
		p = u.known[u.rand.IntN(len(u.known))]
	case 1:
		p.Offset += history.Offset(u.rand.IntN(4))
	case 2:
		p = history.Point{Epoch: p.Epoch}
	case 3:
		p = history.Point{Epoch: history.Epoch(u.rand.Uint64N(3))}
	}
	return p
}

func (u *run) met(known, end history.Point) {
	u.known = append(u.known, end)
	u.known = u.known[max(0, len(u.known)-20):]
	if known.Offset > 0 && known.Epoch != end.Epoch {
		u.count("contradicted")
	}
	if agreed, _ := u.twin.Agreed(); u.log.Agreed() != agreed {
		u.t.Errorf("the node knows of %v, and agreed is %v", u.log.Agreed(), agreed)
	} else if u.r.calls[0].agreed != agreed {
		u.count("told of an agreement")
	}
	if u.r.calls[0].began(end) {
		u.count("new epoch")
	}
}

// caller returns the arguments of the script, and what it found.
func (u *run) caller(known history.Point) store.Caller {
	c := u.r.calls[0]
	return store.Caller{Server: u.r.replID(u.t), Now: c.now, Known: known, Fresh: c.fresh, Agreed: c.agreed}
}

func (u *run) ctx() context.Context { return u.t.Context() }

// same compares the answers of the two logs.
func same[T any](u *run, what string, has, want T, err error) {
	u.t.Helper()
	if a, b := fmt.Sprintf("%+v", has), fmt.Sprintf("%+v", want); err != nil || a != b {
		u.t.Errorf("%s: Redis says\n%s, %v\nand the twin\n%s", what, a, err, b)
	}
}
