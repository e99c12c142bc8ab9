package resumetest_test

import (
	"testing"

	"github.com/heraldgo/herald"
)

// What was sent while a client was away comes after, in order and once: on the node
// where it was and on another one.
func TestComeBack(t *testing.T) { eachBus(t, testComeBack) }

func testComeBack(t *testing.T, config func() herald.Config) {
	one, two := newNode(t, config()), newNode(t, config())
	d := newDevice(t, one, "user=a&group=room", "")
	if c := d.connected(); c.Resumed || c.User != "a" {
		t.Fatalf("%+v", c)
	}
	one.send(t, herald.User("a"), "first")
	d.want("first")
	for _, to := range []*node{one, two, one} {
		d.Cut()
		texts := lines("missed", 1000)
		for i, text := range texts {
			target := herald.User("a")
			if i%3 == 0 {
				target = herald.Group("room")
			}
			two.send(t, target, text)
		}
		d.way.node.Store(to)
		d.Heal()
		if c := d.connected(); !c.Resumed {
			t.Fatalf("%+v", c)
		}
		d.want(texts...)
		one.send(t, herald.Everyone(), "live")
		d.want("live")
	}
	if d.Position() == "" {
		t.Error("no position")
	}
}
