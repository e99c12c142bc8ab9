package redisbus_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/test/bustest"
	"github.com/heraldgo/herald/internal/test/redistest"
)

// If Redis refuses a message for its size, only its own call fails. Other calls at
// the same time succeed.
func TestRedisBusTooLarge(t *testing.T) {
	server := redistest.Start(t, "--proto-max-bulk-len", "1mb")
	from, to := openRedis(t, server.Addr, 0, calm), openRedis(t, server.Addr, 0, calm)
	s := bustest.Start(t, from, to, bustest.Options{})
	s.AwaitPackets(10)
	stop := make(chan struct{})
	var publishing sync.WaitGroup
	defer publishing.Wait()
	defer close(stop)
	var mu sync.Mutex
	failed := make(map[string]int)
	for range 50 {
		publishing.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(time.Millisecond):
				}
				if err := from.Publish(t.Context(), herald.Packet{Topic: "other", Data: []byte("small")}); err != nil {
					mu.Lock()
					failed[err.Error()]++
					mu.Unlock()
				}
			}
		})
	}
	large := herald.Packet{Topic: "topic", Data: make([]byte, 1<<20+1)}
	small := herald.Packet{Topic: "other", Data: []byte("small")}
	for i := range 20 {
		err := from.Publish(t.Context(), large)
		if err == nil || errors.Is(err, herald.ErrUnknown) || errors.Is(err, herald.ErrBusDown) || !strings.Contains(err.Error(), "bulk length") {
			t.Errorf("too large, %d: %v", i, err)
		}
		err = from.Publish(t.Context(), small, large, small)
		if !errors.Is(err, herald.ErrUnknown) || !strings.Contains(fmt.Sprint(err), "bulk length") {
			t.Errorf("too large in part, %d: %v", i, err)
		}
	}
	mu.Lock()
	for err, n := range failed {
		t.Errorf("%d others failed: %v", n, err)
	}
	mu.Unlock()
	if r := s.Check(); r.Failed+len(r.Gaps) > 0 {
		t.Errorf("%d others failed, with gaps %v", r.Failed, r.Gaps)
	}
}

// When Redis is back, the next Publish succeeds. It waits for an attempt to
// connect, not for the end of a pause.
func TestRedisBusPublishesOnceRedisIsBack(t *testing.T) {
	server := redistest.Start(t)
	bus := openRedis(t, server.Addr, 0, &herald.RedisOptions{ProbeInterval: -1})
	for i := range 2 {
		server.Kill()
		for n := 0; n < 6; { // n counts attempts, so that the pauses between them grow
			if err := bus.Publish(t.Context(), herald.Packet{Topic: "topic"}); err != nil {
				n++
			}
		}
		server.Restart()
		if err := bus.Publish(t.Context(), herald.Packet{Topic: "topic"}); err != nil {
			t.Errorf("restart %d: %v", i, err)
		}
	}
}
