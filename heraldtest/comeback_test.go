package heraldtest_test

import (
	"context"
	"testing"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/heraldtest"
)

// A client of a Cluster that keeps comes back to what it missed, or is told.
func TestClientComesBack(t *testing.T) {
	cluster := heraldtest.NewCluster(t, 2, herald.Config{
		Retention: time.Minute, ProbeInterval: 50 * time.Millisecond, ProbeTimeout: 200 * time.Millisecond,
	})
	notify := func(text string) {
		t.Helper()
		if err := cluster.Nodes[0].Hub.Send(t.Context(), herald.User("42"), herald.Text(text)); err != nil {
			t.Fatal(err)
		}
	}
	phone, page := cluster.ConnectHistory(1, herald.Identity{User: "42"}), cluster.Connect(1, herald.Identity{User: "42"})
	notify("live")
	phone.Expect("live")
	phone.ExpectNothing()
	page.Expect("live")
	page.ExpectNothing()

	phone.Cut()
	notify("missed")
	notify("@ and this")
	if !phone.ComeBack(0) {
		t.Error("told that something is missing, and nothing is")
	}
	phone.Expect("missed", "@ and this")
	phone.ExpectNothing()

	// The log has what a node misses whose Bus is cut.
	if phone.Cut(); !phone.ComeBack(1) {
		t.Error("told that something is missing, and nothing is")
	}
	cluster.Nodes[1].Bus.Cut()
	cluster.Nodes[1].AwaitHealth(herald.ErrBusDown)
	notify("sent while it was cut off")
	phone.ExpectNothing()
	cluster.Nodes[1].Bus.Heal()
	phone.Expect("sent while it was cut off")
	page.Expect("missed", "@ and this", "sent while it was cut off")

	phone.Cut()
	notify("forgotten")
	if err := cluster.Nodes[0].Hub.Forget(t.Context(), herald.User("42")); err != nil {
		t.Fatal(err)
	}
	if phone.ComeBack(1) {
		t.Error("not told that something is missing")
	}
	phone.ExpectNothing()

	cluster.Nodes[1].Bus.Lose(true)
	phone.ExpectGap()
	cluster.Nodes[1].Bus.Heal()
}

// What a client sends reaches OnMessage as it is.
func TestClientSendsAt(t *testing.T) {
	got := make(chan string, 1)
	cluster := heraldtest.NewCluster(t, 1, herald.Config{
		Retention: time.Minute,
		OnMessage: func(_ context.Context, _ *herald.Conn, m herald.Message) { got <- m.String() },
	})
	cluster.ConnectHistory(0, herald.Identity{User: "42"}).Send("@bob: hello")
	if text := <-got; text != "@bob: hello" {
		t.Errorf("OnMessage got %q", text)
	}
}
