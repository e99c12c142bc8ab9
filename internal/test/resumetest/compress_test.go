package resumetest_test

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/test/wsraw"
)

// A client that can come back and has agreed on compression gets both new and
// missed messages compressed, each with its line. It gives receipts like any other
// client.
func TestCompression(t *testing.T) { eachBus(t, testCompression) }

func testCompression(t *testing.T, config func() herald.Config) {
	compressing := func() herald.Config {
		c := config()
		c.Compression = true
		return c
	}
	one, two := newNode(t, compressing()), newNode(t, compressing())
	d := newDevice(t, one, "user=a&group=room", "")
	d.connected()
	plain := dialRaw(t, one, "user=b&group=room")
	long := strings.Repeat("a long message ", 5_000)
	before := one.Stats().BytesWritten
	for _, target := range []herald.Target{herald.User("a"), herald.User("a", "a")} {
		two.send(t, target, long)
		d.want(long)
		call := two.begin(t, target, long)
		d.want(long)
		d.receives(t, call)
	}
	if n := one.Stats().BytesWritten - before; n > uint64(len(long)) {
		t.Errorf("%d bytes were written for four messages of %d", n, len(long))
	}
	two.send(t, herald.Group("room"), long)
	d.want(long)
	if m, err := plain.ReadMessage(); err != nil || string(m) != long {
		t.Errorf("a client that has not agreed got %.20q of %d bytes, %v", m, len(m), err)
	}
	d.Cut()
	var missed []string
	for i := range 100 {
		missed = append(missed, fmt.Sprint(i, long))
		two.send(t, herald.User("a"), missed[i])
	}
	d.Heal()
	id, _, _ := strings.Cut(d.connected().Conn, "~")
	d.want(missed...)
	if got := <-two.begin(t, herald.Connection(id), long); got.ReceivedTotal != 1 || got.MissedTotal != 0 {
		t.Errorf("%+v", got)
	}
	d.want(long)
	for c := range one.Conns() {
		if c.User() == "a" {
			c.Send(herald.Text(long))
		}
	}
	d.want(long)
}

func dialRaw(t *testing.T, n *node, query string) *wsraw.Conn {
	t.Helper()
	c, err := net.Dial("tcp", n.server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	ws, _, err := wsraw.Handshake(c, "/?"+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	return ws
}
