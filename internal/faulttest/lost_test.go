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
	"github.com/heraldgo/herald/internal/redistest"
)

// A fault makes the Registry lose the leases.
type fault struct {
	name  string
	begin func(ctx context.Context, admin *redis.Client, other *redistest.Server) error
	end   func(ctx context.Context, admin *redis.Client) error // nil: it is over at once
}

var faults = []fault{
	{
		name: "FLUSHALL",
		begin: func(ctx context.Context, admin *redis.Client, _ *redistest.Server) error {
			return admin.FlushAll(ctx).Err()
		},
	},
	{
		name: "OOM",
		begin: func(ctx context.Context, admin *redis.Client, _ *redistest.Server) error {
			return admin.ConfigSet(ctx, "maxmemory", "1").Err()
		},
		end: func(ctx context.Context, admin *redis.Client) error {
			return admin.ConfigSet(ctx, "maxmemory", "0").Err()
		},
	},
	{
		name: "REPLICAOF",
		begin: func(ctx context.Context, admin *redis.Client, other *redistest.Server) error {
			host, port, _ := strings.Cut(other.Addr, ":")
			return admin.ReplicaOf(ctx, host, port).Err()
		},
		end: func(ctx context.Context, admin *redis.Client) error {
			return admin.ReplicaOf(ctx, "NO", "ONE").Err()
		},
	},
	{
		name: "min-replicas-to-write",
		begin: func(ctx context.Context, admin *redis.Client, _ *redistest.Server) error {
			return admin.ConfigSet(ctx, "min-replicas-to-write", "1").Err()
		},
		end: func(ctx context.Context, admin *redis.Client) error {
			return admin.ConfigSet(ctx, "min-replicas-to-write", "0").Err()
		},
	},
}

// While leases are lost, and until all is well again, each call about a
// user of another node answers with an error, or with what is true.
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
	server, other := redistest.Start(t), redistest.Start(t)
	admin := server.Client()
	nodes := startNodes(t, server, 2, herald.Config{})
	r := rounds{asker: nodes[0], holder: nodes[1], left: names("left", 500), victims: names("victim", 500)}
	r.holder.connect(member, r.left...)
	r.holder.connect("last")
	r.holder.crowd(r.victims, nil)
	await(t, "all are counted", func() error {
		count, err := r.asker.Count(t.Context())
		if want := len(r.victims) + 2; err == nil && count != want {
			err = fmt.Errorf("count %d of %d", count, want)
		}
		return err
	})
	began := time.Now()
	if err := f.begin(t.Context(), admin, other); err != nil {
		t.Fatal(err)
	}
	r.start()
	if f.end != nil {
		<-time.After(testLease * 5 / 2) // longer than a lease
		if err := f.end(t.Context(), admin); err != nil {
			t.Fatal(err)
		}
	}
	await(t, "all well again", func() error {
		return errors.Join(r.asker.Health(), r.holder.Health(), r.asker.allOnline(true, member, "last"))
	})
	t.Logf("all was well again %s after the fault began", r.asker.leases(began))
	r.end(t)
	await(t, "a kick", func() error { return r.asker.kick(r.holder, "last") })
}

// member is the user who joins and leaves.
const member = "member"

// rounds are calls of every kind, made again and again, and what each was
// answered.
type rounds struct {
	asker, holder *node
	left, victims []string

	stop    chan struct{}
	done    sync.WaitGroup
	answers map[string]map[string]int // by call; each that of the goroutine that makes it
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

// Each call returns its error, and whether it is so what a nil would say.

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
	online, err := r.asker.Online(context.Background(), member)
	return err, online[member]
}

func (r *rounds) sessions(int) (error, bool) {
	sessions, err := r.asker.Sessions(context.Background(), herald.User(member))
	return err, len(sessions) == 1
}

// count may be of before the last kicks, so it may be too high.
func (r *rounds) count(int) (error, bool) {
	count, err := r.asker.Count(context.Background())
	return err, count >= r.holder.Stats().Conns
}

// What no answer may be.
const (
	untrue  = "nil, and it is not so"
	unknown = "an error that tells nothing: "
)

// classify says what an answer was.
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

// end ends the rounds, prints all answers, and fails the test where one was
// a nil that was not so, or an error that is not herald's.
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
