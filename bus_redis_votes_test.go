package herald

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// hello is what a Sentinel publishes.
func hello(sentinel, port int, master string) string {
	return fmt.Sprintf("127.0.0.1,%d,id%d,3,main,%s,3", port, sentinel, strings.Replace(master, ":", ",", 1))
}

// A master is believed as of the time when a majority of all Sentinels that
// have been heard had named it.
func TestSentinelVotes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := make(sentinelVotes)
		start := time.Now()
		say := func(sentinel int, master string) { v.hear(hello(sentinel, 26379+sentinel, master), time.Now()) }
		expect := func(what, master string, at time.Duration) {
			t.Helper()
			got, when := v.majority(time.Now())
			if got != master || master != "" && when.Sub(start) != at {
				t.Errorf("%s: %q at %v, want %q at %v", what, got, when.Sub(start), master, at)
			}
		}
		expect("before any has spoken", "", 0)
		for i := range 3 {
			say(i, "a:1")
			time.Sleep(time.Second)
		}
		expect("three", "a:1", time.Second)
		for range 10 {
			time.Sleep(2 * time.Second)
			say(0, "a:1")
		}
		expect("one of three goes on", "a:1", 2*time.Second)
		say(1, "b:1")
		expect("two, and one that names another", "a:1", 2*time.Second)
		say(2, "b:1")
		expect("another is named", "b:1", 23*time.Second)
		say(3, "a:1")
		expect("two against two", "", 0)

		time.Sleep(forgetSentinel + time.Minute)
		say(0, "a:1")
		say(1, "a:1")
		expect("a half never forgets the other", "a:1", 23*time.Second)
		say(2, "a:1")
		expect("three of four", "a:1", time.Since(start))
		if len(v) != 3 {
			t.Errorf("%d Sentinels, want the one forgotten that says nothing", len(v))
		}
		v.hear(hello(9, 26379, "b:1"), time.Now())
		if len(v) != 3 {
			t.Errorf("%d Sentinels, want 3: one has come back with another id", len(v))
		}
		v.hear("nonsense", time.Now())
		for i := range 2 * maxSentinels {
			say(10+i, "c:1")
		}
		if len(v) != maxSentinels {
			t.Errorf("%d Sentinels, want %d", len(v), maxSentinels)
		}
	})
}

// A name belongs to one server, whether it is the server's address or not.
func TestSentinelName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &redisMaster{servers: make(map[string]string), named: time.Now()}
		expect := func(server, name string, want bool) {
			t.Helper()
			if got := m.isNamed(t.Context(), server, name); got != want {
				t.Errorf("%s is the server at %s: %v, want %v", name, server, got, want)
			}
		}
		expect("10.0.0.1:1", "172.0.0.1:1", true) // by a Dialer of the user's
		expect("10.0.0.1:1", "172.0.0.2:1", false)
		expect("10.0.0.2:1", "172.0.0.1:1", false)
		expect("10.0.0.2:1", "172.0.0.2:1", true)
		time.Sleep(renamedAfter + time.Second)
		expect("10.0.0.2:1", "172.0.0.3:1", true)
		expect("[::1]:1", "[0:0:0:0:0:0:0:1]:1", true) // its address, and so from now on
		expect("10.0.0.9:1", "172.0.0.9:1", false)
	})
}
