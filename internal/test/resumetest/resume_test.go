package resumetest_test

import (
	"testing"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/heraldclient"
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

// A node without a Retention beside: what it sends is delivered, and what it gets is
// no riddle to it.
func TestMixed(t *testing.T) { eachBus(t, testMixed) }

func testMixed(t *testing.T, config func() herald.Config) {
	keeps := newNode(t, config())
	plain := config()
	plain.Retention = -1
	old := newNode(t, plain)
	d, o := newDevice(t, keeps, "user=a", ""), newDevice(t, old, "user=a", "")
	d.connected()
	if c, ok := o.next().(heraldclient.Connected); !ok || c.History {
		t.Fatalf("%+v", c)
	}
	for _, n := range []*node{keeps, old} {
		n.send(t, herald.User("a"), "to both")
		d.want("to both")
		o.want("to both")
	}
	if err := old.Join(t.Context(), herald.User("a"), "room"); err != nil {
		t.Fatal(err)
	}
	keeps.send(t, herald.Group("room"), "to the room")
	d.want("to the room")
	o.want("to the room")
	for _, n := range []*node{keeps, old} {
		if s := n.Stats(); s.Malformed != 0 || s.Gaps != 0 {
			t.Errorf("%+v", s)
		}
	}
}
