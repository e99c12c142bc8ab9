package redisconn_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald/internal/redisconn"
	"github.com/heraldgo/herald/internal/test/redistest"
)

// While a slot moves there and back each script is carried out once.
func TestSlotScripter(t *testing.T) {
	cluster := redistest.StartCluster(t, 2, 0, redistest.NeverFailed...)
	client := cluster.Client()
	s := redisconn.NewSlotScripter(client, "{a}n")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	count := redis.NewScript("return redis.call('INCR', KEYS[1])")
	moved := make(chan struct{})
	var calls sync.WaitGroup
	done := int64(0)
	calls.Go(func() {
		for last := false; !last; done++ {
			select {
			case <-moved:
				last = true
			default:
			}
			if n, err := count.Run(ctx, s, []string{"{a}n"}).Int64(); err != nil || n != done+1 {
				t.Errorf("call %d: %d, %v", done+1, n, err)
				return
			}
		}
	})
	slot := cluster.Slot("{a}n")
	for range 2 {
		cluster.Migrate(slot, other(cluster, slot))
	}
	close(moved)
	calls.Wait()
	if done == 0 {
		t.Error("no call")
	}

	// A key that is elsewhere already is not followed there.
	from, to := cluster.MasterOf(slot), other(cluster, slot)
	err := from.Admin().Del(ctx, "{a}n").Err()
	if err != nil {
		t.Fatal(err)
	}
	cluster.BeginMigration(slot, to)
	for err = context.DeadlineExceeded; errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil; { // in the middle of a call
		short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		err = count.Run(short, s, []string{"{a}n"}).Err()
		cancel()
	}
	if err == nil || !strings.HasPrefix(err.Error(), "ASK ") {
		t.Errorf("a key on its way: %v", err)
	}
}

// A pipeline of which something is done does not go again.
func TestSlotScripterPartly(t *testing.T) {
	cluster := redistest.StartCluster(t, 2, 0, redistest.NeverFailed...)
	elsewhere := "b"
	for cluster.MasterOf(cluster.Slot(elsewhere)) == cluster.MasterOf(cluster.Slot("a")) {
		elsewhere += "b"
	}
	s := redisconn.NewSlotScripter(cluster.Client(), "a")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmds, err := s.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		pipe.Incr(ctx, "a")
		pipe.Incr(ctx, elsewhere)
		return nil
	})
	if err == nil || !strings.HasPrefix(err.Error(), "MOVED ") || len(cmds) != 2 || cmds[0].Err() != nil {
		t.Errorf("%v, %v", cmds, err)
	}
	if n, err := cluster.Client().Get(ctx, "a").Int(); n != 1 || err != nil {
		t.Errorf("counted %d, %v", n, err)
	}
}

// other returns the master that has not the slot.
func other(cluster *redistest.Cluster, slot int) *redistest.Node {
	if n := cluster.Nodes[0]; n != cluster.MasterOf(slot) {
		return n
	}
	return cluster.Nodes[1]
}
