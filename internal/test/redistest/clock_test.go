package redistest

import (
	"testing"
	"time"
)

// Scripts and commands see each step of the clock, forward and back.
func TestClock(t *testing.T) {
	server := StartWithClock(t)
	rdb := server.Client()
	offset := func() time.Duration {
		t.Helper()
		seen, err := rdb.Time(t.Context()).Result()
		if err != nil {
			t.Fatal(err)
		}
		inScript, err := rdb.Eval(t.Context(), "return redis.call('TIME')[1]", nil).Int64()
		if err != nil {
			t.Fatal(err)
		}
		if d := inScript - seen.Unix(); d < 0 || d > 30 {
			t.Errorf("a script's time is %d s after the server's", d)
		}
		return time.Until(seen)
	}
	for _, step := range []time.Duration{0, time.Hour, -2 * time.Hour, time.Hour} {
		server.Step(step)
		if d := offset() - server.offset; d < -30*time.Second || d > time.Second {
			t.Errorf("the clock is %v from ours, want %v", offset(), server.offset)
		}
	}
}
