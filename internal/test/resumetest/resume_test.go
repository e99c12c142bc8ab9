package resumetest_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/heraldclient"
	"github.com/heraldgo/herald/internal/test/redistest"
)

// A client that was away gets the missed messages afterwards, in order and once,
// both on its former node and on another.
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
		var user, group []string
		for i, text := range lines("missed", 1000) {
			if i%3 == 0 {
				two.send(t, herald.Group("room"), text)
				group = append(group, text)
			} else {
				two.send(t, herald.User("a"), text)
				user = append(user, text)
			}
		}
		d.way.node.Store(to)
		d.Heal()
		if c := d.connected(); !c.Resumed {
			t.Fatalf("%+v", c)
		}
		d.wantEach(user, group)
		one.send(t, herald.Everyone(), "live")
		d.want("live")
	}
	if d.Position() == "" {
		t.Error("no position")
	}
}

// Of the messages with a key, a client that was away gets the newest, and perhaps
// some before it. It gets all other messages, in order, and is told of no loss.
func TestConflate(t *testing.T) { eachBus(t, testConflate) }

func testConflate(t *testing.T, config func() herald.Config) {
	one, two := newNode(t, config()), newNode(t, config())
	d := newDevice(t, one, "user=a&group=g&group=h", "")
	d.connected()
	targets := []herald.Target{herald.User("a"), herald.Group("g"), herald.Group("g", "h")}
	const rounds = 20
	for range 3 {
		d.Cut()
		for i := range rounds {
			for n, target := range targets {
				for _, key := range []string{"x", "y", ""} {
					if err := two.Send(t.Context(), target, herald.Text(fmt.Sprint(n, key, " ", i)).Conflate(key)); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		d.Heal()
		if c := d.connected(); !c.Resumed {
			t.Fatalf("%+v", c)
		}
		last := make(map[string]int)
		for done := 0; done < 3*len(targets); {
			e := d.next()
			m, ok := e.(heraldclient.Message)
			of, number, _ := strings.Cut(string(m.Data), " ")
			i, err := strconv.Atoi(number)
			if !ok || err != nil {
				t.Fatalf("got %T %+v", e, e)
			}
			if before, has := last[of]; has && i <= before || len(of) == 1 && i != last[of]+min(1, i) {
				t.Fatalf("%s of %s after %d", number, of, before)
			}
			if last[of] = i; i == rounds-1 {
				done++
			}
		}
	}
}

// A client in several groups gets a message to all of them once and in order, even
// if it has missed many and the groups are in different partitions.
func TestCopies(t *testing.T) { eachBus(t, testCopies) }

func testCopies(t *testing.T, config func() herald.Config) {
	one, two := newNode(t, config()), newNode(t, config())
	d := newDevice(t, one, "user=a&group=g&group=h&group=i", "")
	d.connected()
	for _, to := range []*node{two, one} {
		d.Cut()
		both := lines("to all three", 400)
		for _, text := range both {
			two.send(t, herald.Group("g", "h", "i"), text)
		}
		d.way.node.Store(to)
		d.Heal()
		if c := d.connected(); !c.Resumed {
			t.Fatalf("%+v", c)
		}
		d.want(both...)
		for _, group := range []string{"g", "h", "i"} { // these come behind all copies
			two.send(t, herald.Group(group), "live")
			d.want("live")
		}
	}
}

// The timeout of the user's Redis client does not bound calls of the log, because a
// page may take longer than a command.
func TestImpatientClient(t *testing.T) {
	impatient := redis.NewClient(&redis.Options{Addr: redistest.Start(t).Addr, ReadTimeout: time.Microsecond})
	t.Cleanup(func() { impatient.Close() })
	bus, err := herald.NewRedisBus(impatient, nil)
	if err != nil {
		t.Fatal(err)
	}
	n := newNode(t, herald.Config{Bus: bus, Registry: herald.NewMemoryRegistry()})
	d := newDevice(t, n, "user=a", "")
	d.connected()
	d.Cut()
	n.send(t, herald.User("a"), "missed")
	d.Heal()
	d.connected()
	d.want("missed")
}

// OnConnect may join groups one by one. All of them are covered from the client's
// position on.
func TestJoinOneByOne(t *testing.T) { eachBus(t, testJoinOneByOne) }

func testJoinOneByOne(t *testing.T, config func() herald.Config) {
	const groups = 20
	c := config()
	c.OnConnect = func(ctx context.Context, c *herald.Conn) error {
		for i := range groups {
			if err := c.Join(ctx, fmt.Sprint(i)); err != nil {
				return err
			}
			for range 10 { // the log may answer others in between
				if _, err := c.Hub().Position(ctx); err != nil {
					return err
				}
			}
		}
		return nil
	}
	n := newNode(t, c)
	d := newDevice(t, n, "user=a", "")
	d.connected()
	n.send(t, herald.User("a"), "first")
	d.want("first")
	d.Cut()
	missed := make([][]string, groups)
	for i := range groups {
		missed[i] = []string{fmt.Sprint("missed ", i)}
		n.send(t, herald.Group(fmt.Sprint(groups-1-i)), missed[i][0])
	}
	d.Heal()
	if c := d.connected(); !c.Resumed {
		t.Fatalf("%+v", c)
	}
	d.wantEach(missed...)
}

// A Send may have as many users as a target allows. It is then made in several
// batches.
func TestManyUsers(t *testing.T) { eachBus(t, testManyUsers) }

func testManyUsers(t *testing.T, config func() herald.Config) {
	n := newNode(t, config())
	users := lines("user", 10_000)
	d := newDevice(t, n, "user=user+9999", "")
	d.connected()
	for _, text := range lines("to all", 3) {
		n.send(t, herald.User(users...), text)
		d.want(text)
	}
}

// While there is a node without a Retention, no client gets a position, because
// that node's messages are not kept. When it has gone, clients that were there
// before are told.
func TestMixed(t *testing.T) { eachBus(t, testMixed) }

func testMixed(t *testing.T, config func() herald.Config) {
	keeps := newNode(t, config())
	before := newDevice(t, keeps, "user=a", "")
	before.connected()
	keeps.send(t, herald.User("a"), "kept")
	before.want("kept")
	before.Cut()

	plain := config()
	plain.Retention = -1
	old := newNode(t, plain)
	o := newDevice(t, old, "user=a", "")
	if c, ok := o.next().(heraldclient.Connected); !ok || c.History {
		t.Fatalf("%+v", c)
	}
	var d *device
	for start := time.Now(); ; { // until the nodes have heard each other
		d = newDevice(t, keeps, "user=a", "")
		d.connected()
		for range 2 { // the second one shows that the first was processed
			keeps.send(t, herald.User("a"), "a position?")
			d.wantAfterGaps("a position?")
			o.want("a position?")
		}
		if at, _, _ := strings.Cut(d.Position(), " "); at == "" { // it has only the connection's id, no position
			break
		}
		if d.Close(); time.Since(start) > patience {
			t.Fatal("a client still gets positions")
		}
	}
	if at, err := keeps.Position(t.Context()); !errors.Is(err, herald.ErrBusDown) || at != "" || !strings.Contains(err.Error(), old.NodeID()) {
		t.Errorf("Position returned %q, %v", at, err)
	}
	for _, n := range []*node{keeps, old} {
		n.send(t, herald.User("a"), "to both")
		d.wantAfterGaps("to both")
		o.want("to both")
	}
	if err := old.Join(t.Context(), herald.User("a"), "room"); err != nil {
		t.Fatal(err)
	}
	keeps.send(t, herald.Group("room"), "to the room")
	d.wantAfterGaps("to the room")
	o.want("to the room")
	for _, n := range []*node{keeps, old} {
		if s := n.Stats(); s.Malformed != 0 || n == old && s.Gaps != 0 {
			t.Errorf("%+v", s)
		}
	}
	old.stop()
	before.Heal()
	if c := before.next().(heraldclient.Connected); !c.History {
		t.Errorf("%+v", c)
	}
	e := before.next()
	if _, ok := e.(heraldclient.Gap); !ok {
		t.Errorf("it was not told, but got %T %+v", e, e)
	}
	await(t, "a position when the other node has gone", func() bool {
		_, err := keeps.Position(t.Context())
		return err == nil
	})
}
