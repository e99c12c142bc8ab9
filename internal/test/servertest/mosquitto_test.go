package servertest_test

import (
	"testing"

	"github.com/heraldgo/herald/internal/test/servertest"
)

func TestMosquitto(t *testing.T) {
	s := servertest.Mosquitto(t, "max_queued_messages 1000", "allow_anonymous false")
	for range 2 {
		s.Kill()
		if servertest.Dial(s.Addr) == nil {
			t.Error("still there after Kill")
		}
		s.Restart()
		if err := servertest.Dial(s.Addr); err != nil {
			t.Error(err)
		}
	}
	s.Stop()
	if servertest.Dial(s.Addr) == nil {
		t.Errorf("still there after Stop:\n%s", s.Log())
	}
}
