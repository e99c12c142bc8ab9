package redislog

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald/internal/history"
	"github.com/heraldgo/herald/internal/history/store"
)

// A slowRedis answers each look after a second. The last offset of a topic is its name, and
// all of it is forgotten.
type slowRedis struct {
	Client // nil, because only EVALSHA is called
	fails  error

	mu    sync.Mutex
	looks [][]any // the arguments of each
}

func (r *slowRedis) EvalSha(ctx context.Context, _ string, _ []string, args ...any) *redis.Cmd {
	r.mu.Lock()
	r.looks = append(r.looks, args)
	r.mu.Unlock()
	cmd := redis.NewCmd(ctx)
	select {
	case <-time.After(time.Second):
	case <-ctx.Done():
		cmd.SetErr(ctx.Err())
		return cmd
	}
	ends := list()
	for _, topic := range args[12:] {
		n, _ := strconv.ParseInt(topic.(string), 10, 64)
		ends = append(ends, n)
	}
	cmd.SetVal(good(int64(0), int64(9), ends, ends, ints(), ints(), int64(1), list()))
	cmd.SetErr(r.fails)
	return cmd
}

// Readers who come while a look is under way share the next one, and each gets its own
// part. The log hears the most that one of them knows. Those who know another epoch, or come
// from one, do not share it.
func TestLookTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &slowRedis{}
		l := New(Config{Client: r, Limits: store.Limits{Segment: 8, Age: 1000, Bytes: 1000}})
		begin := time.Now()
		var readers sync.WaitGroup
		look := func(known history.Offset, epoch history.Epoch, topics ...string) {
			readers.Go(func() {
				v, err := l.lookTogether(t.Context(), history.Point{Epoch: 1, Offset: known}, epoch, topics)
				if text := fmt.Sprint(v.ends); err != nil || text != fmt.Sprint(topics) || text != fmt.Sprint(v.cuts) || v.End.Offset != 9 {
					t.Errorf("topics %v: %v, %v", topics, text, err)
				}
			})
			synctest.Wait()
		}
		look(3, 1, "1", "2")
		for i := range 8 {
			look(3, 1, fmt.Sprint(i), "5")
		}
		look(3, 1)
		look(4, 1, "7") // what it knows goes with the look that it shares
		look(2, 1, "6")
		look(3, 2, "8", "9")
		readers.Go(func() {
			if v, err := l.lookTogether(t.Context(), history.Point{Epoch: 2, Offset: 4}, 1, []string{"3"}); err != nil || fmt.Sprint(v.ends) != "[3]" {
				t.Errorf("in another epoch: %v, %v", v.ends, err)
			}
		})
		readers.Wait()
		topics, known := 0, uint64(0)
		for _, args := range r.looks {
			topics += len(args) - 12
			known = max(known, args[1].(uint64))
		}
		if took := time.Since(begin); len(r.looks) != 4 || topics != 23 || took != 2*time.Second || known != 4 {
			t.Errorf("%d looks at %d topics took %v", len(r.looks), topics, took)
		}
		if n := len(l.looks.last); n > 0 {
			t.Errorf("%d looks are remembered", n)
		}
	})
}

// A look has a bound. Readers who do not fit share the one after it.
func TestLookTogetherBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &slowRedis{}
		l := New(Config{Client: r, Limits: store.Limits{Segment: 8, Age: 1000, Bytes: 1000}})
		l.bounds.asked = 4
		var readers sync.WaitGroup
		for range 7 {
			readers.Go(func() {
				if v, err := l.lookTogether(t.Context(), history.Point{}, 1, []string{"1", "2"}); err != nil || len(v.ends) != 2 {
					t.Errorf("%v, %v", v, err)
				}
			})
			synctest.Wait()
		}
		readers.Wait()
		for i, args := range r.looks {
			if n := len(args) - 12; n > 4 || len(r.looks) != 4 {
				t.Errorf("look %d of %d has %d topics", i+1, len(r.looks), n)
			}
		}
	})
}

// A look that fails does so for all who share it. One of them whose time is over does not
// wait. If that is the one who runs it, the others look again.
func TestLookTogetherFails(t *testing.T) {
	for name, c := range map[string]struct {
		fails error
		short int // the reader who has a second and a half
		looks int // at most
	}{"fails": {errSilent, 2, 2}, "a sharer is late": {nil, 2, 2}, "the one who runs it is late": {nil, 1, 4}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := &slowRedis{fails: c.fails}
				l := New(Config{Client: r, Limits: store.Limits{Segment: 8, Age: 1000, Bytes: 1000}})
				var readers sync.WaitGroup
				for i := range 4 {
					ctx, cancel := t.Context(), context.CancelFunc(func() {})
					want := c.fails
					if i == c.short {
						ctx, cancel = context.WithTimeout(ctx, 1500*time.Millisecond)
						want = context.DeadlineExceeded
					}
					readers.Go(func() {
						defer cancel()
						if _, err := l.lookTogether(ctx, history.Point{}, 1, []string{"1"}); !errors.Is(err, want) {
							t.Errorf("reader %d: %v", i, err)
						}
					})
					synctest.Wait()
				}
				readers.Wait()
				if len(r.looks) > c.looks || len(l.looks.last) > 0 {
					t.Errorf("%d looks, and %d are remembered", len(r.looks), len(l.looks.last))
				}
			})
		})
	}
}
