package redisconn

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A votesTest has Sentinels speak, in the time of synctest.
type votesTest struct {
	*testing.T
	v     sentinelVotes
	start time.Time
	epoch int
}

func newVotesTest(t *testing.T) *votesTest {
	return &votesTest{t, make(sentinelVotes), time.Now(), 3}
}

// say has a Sentinel publish whom it names.
func (t *votesTest) say(sentinel int, master string) { t.sayAs(sentinel, 26379+sentinel, master) }

func (t *votesTest) sayAs(id, port int, master string) {
	t.v.hear(fmt.Sprintf("127.0.0.1,%d,id%d,3,main,%s,%d", port, id, strings.Replace(master, ":", ",", 1), t.epoch), time.Now())
}

func (t *votesTest) expect(what, master string, at time.Duration) {
	t.Helper()
	got, when := t.v.majority(time.Now())
	since := when.Sub(t.start)
	if when.IsZero() {
		since = never
	}
	if got != master || master != "" && since != at {
		t.Errorf("%s: %q at %v, want %q at %v", what, got, since, master, at)
	}
}

const never = time.Duration(-1)

// A master is believed as of the time when a majority of all Sentinels that
// have been heard had named it.
func TestSentinelVotes(t *testing.T) {
	synctest.Test(t, func(st *testing.T) {
		t := newVotesTest(st)
		t.expect("before any has spoken", "", 0)
		for i := range 3 {
			t.say(i, "a:1")
			time.Sleep(time.Second)
		}
		t.expect("three", "a:1", time.Second)
		for range 10 {
			time.Sleep(2 * time.Second)
			t.say(0, "a:1")
		}
		t.expect("one of three goes on", "a:1", 2*time.Second)
		t.epoch++
		t.say(1, "b:1")
		t.expect("one of a new epoch", "", 0)
		t.say(2, "b:1")
		t.expect("a majority of a new epoch", "b:1", 23*time.Second)
		t.epoch--
		t.say(1, "a:1")
		t.say(2, "a:1")
		t.expect("late words of the old epoch", "b:1", 23*time.Second)
		t.epoch++
		t.say(3, "a:1")
		t.expect("two of four", "", 0)

		time.Sleep(forgetSentinel + time.Minute)
		for _, i := range []int{0, 1} {
			t.say(i, "a:1")
		}
		t.expect("a half never forgets the other", "a:1", never)
		t.say(2, "a:1")
		t.majority()
		if len(t.v) != 3 {
			t.Errorf("%d Sentinels, want the one forgotten that says nothing", len(t.v))
		}
		t.sayAs(9, 26379, "b:1")
		if len(t.v) != 3 {
			t.Errorf("%d Sentinels, want 3: one has come back with another id", len(t.v))
		}
		t.v.hear("nonsense", time.Now())
		for i := range 2 * maxSentinels {
			t.say(10+i, "c:1")
		}
		if len(t.v) != maxSentinels {
			t.Errorf("%d Sentinels, want %d", len(t.v), maxSentinels)
		}
	})
}

func (t *votesTest) majority() { t.v.majority(time.Now()) }

// What was on its way while the network was split comes late, all at once, and
// says nothing of the present. What comes after it does.
func TestSentinelVotesLate(t *testing.T) {
	synctest.Test(t, func(st *testing.T) {
		t := newVotesTest(st)
		all := func() {
			for i := range 3 {
				t.say(i, "a:1")
			}
		}
		all()
		time.Sleep(2 * time.Second)
		all()
		t.expect("all is well", "a:1", 2*time.Second)
		for range 10 {
			time.Sleep(2 * time.Second)
			t.say(0, "a:1")
		}
		for range 4 {
			all()
			t.expect("a burst after a silence", "a:1", 2*time.Second)
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(1900 * time.Millisecond)
		all()
		t.expect("the next", "a:1", time.Since(t.start))
	})
}

// A name belongs to one server, whether it is the server's address or not.
func TestSentinelName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &Master{servers: make(map[string]string), named: time.Now()}
		expect := func(server, name string, want bool) {
			t.Helper()
			if got, known := m.isNamed(t.Context(), server, name, true); got != want || !known {
				t.Errorf("%s is the server at %s: %v, want %v", name, server, got, want)
			}
		}
		if _, known := m.isNamed(t.Context(), "10.0.0.2:1", "172.0.0.1:1", false); known {
			t.Error("a name is learned while the Sentinels may be changing their minds")
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

// A name is settled when a majority gives it for longer than Sentinels
// disagree, and go-redis has led to the server since.
func TestSentinelSettled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &Master{ear: &sentinelEar{server: "10.0.0.1:1"}}
		expect := func(what, name string, want bool) {
			t.Helper()
			if got := m.settled(name, time.Now()); got != want {
				t.Errorf("%s is settled %s: %v, want %v", name, what, got, want)
			}
		}
		led := func(server string) {
			time.Sleep(SentinelLag + time.Second)
			m.ledTo, m.led = server, time.Now()
		}
		expect("when first given", "172.0.0.1:1", false)
		time.Sleep(SentinelLag + time.Second)
		expect("before go-redis leads", "172.0.0.1:1", false)
		led("10.0.0.2:1")
		expect("while go-redis leads elsewhere", "172.0.0.1:1", false)
		led("10.0.0.1:1")
		expect("when all is quiet", "172.0.0.1:1", true)
		expect("after a failover", "172.0.0.2:1", false)
		led("10.0.0.1:1")
		expect("when all is quiet again", "172.0.0.2:1", true)
	})
}
