package faulttest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/test/redistest"
)

// A fault makes the Registry lose the leases. begin and end are commands of
// redis-cli, if sharded for one server of a Cluster.
type fault struct {
	name    string
	begin   string
	end     string // empty if the fault is over at once
	sharded bool
}

var faults = []fault{
	{name: "FLUSHALL", begin: "FLUSHALL"},
	{name: "OOM", begin: "CONFIG SET maxmemory 1", end: "CONFIG SET maxmemory 0"},
	{name: "replica", begin: "REPLICAOF 127.0.0.1 PORT", end: "REPLICAOF NO ONE"},
	{name: "NOREPLICAS", begin: "CONFIG SET min-replicas-to-write 1", end: "CONFIG SET min-replicas-to-write 0"},
	{name: "one master of three without scripts", begin: "ACL SETUSER default -eval -evalsha", end: "ACL SETUSER default +eval +evalsha", sharded: true},
}

// start starts the servers, and returns the functions that begin and end the fault.
func (f fault) start(t *testing.T) (open backend, begin, end func()) {
	t.Helper()
	var admin *redis.Client
	if f.sharded {
		cluster := redistest.StartCluster(t, 3, 0)
		open, admin = sharded(cluster), cluster.Nodes[0].Admin()
	} else {
		server := redistest.Start(t)
		open, admin = single(server), server.Client()
	}
	if strings.Contains(f.begin, "PORT") {
		_, port, _ := strings.Cut(redistest.Start(t).Addr, ":")
		f.begin = strings.Replace(f.begin, "PORT", port, 1)
	}
	do := func(command string) {
		t.Helper()
		var args []any
		for word := range strings.FieldsSeq(command) {
			args = append(args, word)
		}
		if err := admin.Do(t.Context(), args...).Err(); err != nil {
			t.Fatalf("%s: %v", command, err)
		}
	}
	return open, func() { do(f.begin) }, func() { do(f.end) }
}

// While leases are lost, and until all is well again, each call about a user of
// another node returns an error or a true answer.
func TestLeasesLost(t *testing.T) {
	t.Parallel()
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			testLeasesLost(t, f)
		})
	}
}

func testLeasesLost(t *testing.T, f fault) {
	open, begin, end := f.start(t)
	nodes := startNodes(t, open, 2, herald.Config{})
	r := rounds{asker: nodes[0], holder: nodes[1], left: names("left", 500), victims: names("victim", 500), stay: names("stays", 30)}
	r.holder.connect(member, r.left...)
	r.holder.crowd(r.victims, nil)
	r.holder.crowd(r.stay, nil)
	await(t, "all are counted", func() error {
		count, err := r.asker.Count(t.Context())
		if want := 1 + len(r.victims) + len(r.stay); err == nil && count != want {
			err = fmt.Errorf("count %d of %d", count, want)
		}
		return err
	})
	began := time.Now()
	begin()
	r.start()
	if f.end != "" {
		time.Sleep(testLease * 5 / 2) // longer than a lease
		end()
	}
	await(t, "all well again", func() error {
		return errors.Join(r.asker.Health(), r.holder.Health(), r.asker.allOnline(true, r.stay...))
	})
	t.Logf("all was well again %s after the fault began", r.asker.leases(began))
	r.end(t)
	await(t, "a kick", func() error { return r.asker.kick(r.holder, r.stay[0]) })
}

// member is the user who joins and leaves.
const member = "member"

// rounds make calls of every kind over and over, and count the answers.
type rounds struct {
	asker, holder *node
	left, victims []string // groups that the member leaves; users who are kicked
	stay          []string // users who are not kicked

	stop    chan struct{}
	done    sync.WaitGroup
	answers map[string]map[string]int // by call; each inner map belongs to the goroutine that makes the call
}

func (r *rounds) start() {
	r.stop, r.answers = make(chan struct{}), make(map[string]map[string]int)
	for call, ask := range map[string]func(int) (error, bool){
		"Join": r.join, "Leave": r.leave, "Disconnect": r.disconnect,
		"Online": r.online, "Sessions": r.sessions, "Count": r.count,
	} {
		answers := make(map[string]int)
		r.answers[call] = answers
		r.done.Go(func() {
			for i := range r.victims {
				answers[classify(ask(i))]++
				select {
				case <-r.stop:
					return
				case <-time.After(20 * time.Millisecond):
				}
			}
		})
	}
}

// Each of these makes a call, and returns its error and whether what a nil error
// says is true.

func (r *rounds) join(i int) (error, bool) {
	group := fmt.Sprint("joined", i)
	err := r.asker.Join(context.Background(), herald.User(member), group)
	return err, r.holder.hasIn(member, group)
}

func (r *rounds) leave(i int) (error, bool) {
	err := r.asker.Leave(context.Background(), herald.User(member), r.left[i])
	return err, !r.holder.hasIn(member, r.left[i])
}

func (r *rounds) disconnect(i int) (error, bool) {
	err := r.asker.Disconnect(context.Background(), herald.User(r.victims[i]), 4000, "banned")
	return err, r.holder.has(r.victims[i]) == 0
}

func (r *rounds) online(int) (error, bool) {
	online, err := r.asker.Online(context.Background(), r.stay...)
	return err, !slices.ContainsFunc(r.stay, func(user string) bool { return !online[user] })
}

func (r *rounds) sessions(i int) (error, bool) {
	sessions, err := r.asker.Sessions(context.Background(), herald.User(r.stay[i%len(r.stay)]))
	return err, len(sessions) == 1
}

// count may be from before the last kicks, so it may be too high.
func (r *rounds) count(int) (error, bool) {
	count, err := r.asker.Count(context.Background())
	return err, count >= r.holder.Stats().Conns
}

// These answers are never allowed.
const (
	untrue  = "nil, and it is not so"
	unknown = "an error that tells nothing: "
)

// classify names the kind of an answer.
func classify(err error, so bool) string {
	var partial *herald.PartialError
	switch {
	case err == nil && so:
		return "nil"
	case err == nil:
		return untrue
	case errors.As(err, &partial):
		return "PartialError"
	}
	for _, sentinel := range []error{herald.ErrRegistryDown, herald.ErrBusDown, herald.ErrUnknown} {
		if errors.Is(err, sentinel) {
			return sentinel.Error()
		}
	}
	return unknown + err.Error()
}

// end ends the rounds, logs all answers, and fails the test for each nil that was
// not true and each error that is not herald's.
func (r *rounds) end(t *testing.T) {
	t.Helper()
	close(r.stop)
	r.done.Wait()
	for _, call := range slices.Sorted(maps.Keys(r.answers)) {
		for _, answer := range slices.Sorted(maps.Keys(r.answers[call])) {
			say := t.Logf
			if answer == untrue || strings.HasPrefix(answer, unknown) {
				say = t.Errorf
			}
			say("%-10s %4d times: %s", call, r.answers[call][answer], answer)
		}
	}
}
