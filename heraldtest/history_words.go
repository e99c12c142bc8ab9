package heraldtest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/coder/websocket"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/history/device"
)

func testPrevious(s *historySuite) {
	type arrival struct {
		resumed  bool
		previous string
		id       string
	}
	arrivals := make(chan arrival, 10)
	tell := func(c *herald.Config) {
		c.OnConnect = func(_ context.Context, conn *herald.Conn) error {
			arrivals <- arrival{conn.Resumed(), conn.Previous(), conn.ID()}
			return nil
		}
	}
	one, two := s.node(tell), s.node(tell)
	v := s.visit(one, "user=a")
	first := <-arrivals
	if first.resumed || first.previous != "" {
		s.failf("a new client's connection says %+v", first)
	}
	last := first.id
	for _, n := range []*historyNode{two, one} {
		v.cut()
		v.comes(n)
		v.complete()
		back := <-arrivals
		if !back.resumed || back.previous != last {
			s.failf("the connection after %s says %+v", last, back)
		}
		last = back.id
	}
	from, conns := v.memory.Resume()
	forged := slices.Clone(conns)
	forged[0] = strings.Replace(forged[0], ".", "0.", 1)
	for name, u := range map[string]struct {
		query string
		conns []string
	}{
		"another user's id": {"user=b", conns[:1]},
		"a made-up id":      {"user=a", forged[:1]},
		"an unsigned id":    {"user=a", []string{last}},
	} {
		thief := s.newVisitor(u.query)
		thief.memory = device.NewClient(from, u.conns)
		thief.comes(two)
		thief.back()
		if got := <-arrivals; got.previous != "" {
			s.failf("%s: the connection says that it comes after %s", name, got.previous)
		}
	}
}

func testQueries(s *historySuite) {
	n := s.node(nil)
	after := s.node(func(c *herald.Config) { c.RejectAfterUpgrade = true })
	v := s.newVisitor("user=a")
	for _, query := range []string{
		"herald=1&herald.from=x", "herald=1&herald.from=0.1", "herald=1&herald.from=0.1.2,0.1.3", "herald=1&herald.from=0.0.1",
		"herald=1&herald.from=16.1.1", "herald=1&herald.from=0.1.18446744073709551616", "herald=1&herald.conn=a,b,c,d,e",
		"herald=1&herald.conn=a%20b", "herald=1&herald.conn=" + strings.Repeat("x", 201), "herald=1&herald.from=0.1.1&herald.from=0.1.1",
	} {
		query = v.query.Encode() + "&" + query
		_, response, err := v.dial(n, query)
		if err == nil || response == nil || response.StatusCode != http.StatusBadRequest {
			s.failf("%s: got %v, %v; want 400", query, response, err)
		}
		socket, _, err := v.dial(after, query)
		s.ok(err)
		_, _, err = socket.Read(s.Context())
		if code := websocket.CloseStatus(err); code != 4000+http.StatusBadRequest {
			s.failf("%s: got %v with RejectAfterUpgrade; want 4400", query, err)
		}
	}
	// A client of another version is a plain one.
	socket, _, err := v.dial(n, v.query.Encode()+"&herald=2&herald.from=x")
	s.ok(err)
	p := &plain{s, socket}
	p.settled(n)
}

func testAt(s *historySuite) {
	n := s.node(nil)
	v := s.visit(n, "user=a")
	n.send(herald.User("a"), "@all\nof you")
	v.wants("@all\nof you")
	v.write("hello")
	v.write("@@bob")
	v.write("@ " + v.position())
	v.write("@@")
	for _, want := range []string{"hello", "@bob", "@"} {
		if got := n.message(); got != want {
			s.failf("OnMessage got %q, want %q", got, want)
		}
	}
	for _, text := range []string{"@", "@x", "@?", "@?01", "@ x"} {
		v := s.visit(n, "user=a")
		v.write(text)
		if code := v.closed(); code != herald.StatusPolicyViolation {
			s.failf("%q: closed with %d, want %d", text, code, herald.StatusPolicyViolation)
		}
	}
	p := s.plain(n, "user=b")
	s.ok(p.socket.Write(s.Context(), websocket.MessageText, []byte("@x")))
	if got := n.message(); got != "@x" {
		s.failf("OnMessage got %q of a plain client, want %q", got, "@x")
	}
}

// message returns the next message that OnMessage got.
func (n *historyNode) message() string {
	n.s.Helper()
	ctx, cancel := context.WithTimeout(n.s.Context(), historyPatience)
	defer cancel()
	select {
	case m := <-n.messages:
		return m
	case <-ctx.Done():
		n.s.failf("no message came within %v", historyPatience)
		return ""
	}
}

func testProbes(s *historySuite) {
	entered, leave := make(chan struct{}), make(chan struct{})
	release := sync.OnceFunc(func() { close(leave) })
	s.Cleanup(release)
	n := s.node(func(c *herald.Config) {
		c.PingInterval = -1 // or the node would look for a pong after a while
		c.OnMessage = func(context.Context, *herald.Conn, herald.Message) {
			close(entered)
			<-leave
		}
	})
	v := s.visit(n, "user=a")
	v.write("busy")
	<-entered
	v.probe(7)
	v.probe(8)
	release()
	v.probe(9)
}

// A plain client does not speak the protocol.
type plain struct {
	s      *historySuite
	socket *websocket.Conn
}

// plain connects one, and waits until it gets what is sent.
func (s *historySuite) plain(n *historyNode, query string) *plain {
	s.Helper()
	v := s.newVisitor(query)
	socket, _, err := v.dial(n, v.query.Encode())
	s.ok(err)
	p := &plain{s, socket}
	p.settled(n)
	return p
}

// settled waits until the node takes what the client sends.
func (p *plain) settled(n *historyNode) {
	p.s.Helper()
	p.s.ok(p.socket.Write(p.s.Context(), websocket.MessageText, []byte("settled")))
	if got := n.message(); got != "settled" {
		p.s.failf("OnMessage got %q", got)
	}
}

func (p *plain) next() string {
	p.s.Helper()
	ctx, cancel := context.WithTimeout(p.s.Context(), historyPatience)
	defer cancel()
	_, data, err := p.socket.Read(ctx)
	p.s.ok(err)
	return string(data)
}

func (p *plain) wants(texts ...string) {
	p.s.Helper()
	for _, want := range texts {
		if got := p.next(); got != want {
			p.s.failf("a plain client got %q, want %q", got, want)
		}
	}
}

func testPlain(s *historySuite) {
	one, two := s.node(nil), s.node(nil)
	p := s.plain(one, "user=a&group=g")
	two.send(herald.Group("g"), "bare", "m 0.1.1\nbare")
	p.wants("bare", "m 0.1.1\nbare")
	for round := range 3 {
		s.network.Interrupt()
		// Whether a failed Send has sent its message is not known.
		sure := make(map[string]bool)
		sent := texts("meanwhile", 200)
		for _, text := range sent {
			sure[text] = two.Send(s.Context(), herald.Group("g"), herald.Text(text)) == nil
		}
		end := fmt.Sprint("the end ", round)
		s.await("Send", func() bool { return two.Send(s.Context(), herald.User("a"), herald.Text(end)) == nil })
		for got := ""; got != end; {
			got = p.next()
			for len(sent) > 0 && sent[0] != got && !sure[sent[0]] {
				sent = sent[1:]
			}
			if len(sent) > 0 && got == sent[0] {
				sent = sent[1:]
			} else if len(sent) > 0 || got != end {
				s.failf("a plain client got %q, with %s to come", got, abridged(sent))
			}
		}
	}
	one.noGap()
}

func testRefused(s *historySuite) {
	one, two := s.node(nil), s.node(nil)
	v, p := s.visit(one, "user=a"), s.plain(two, "user=a")
	allow := s.network.Refuse()
	err := one.Send(s.Context(), herald.User("a"), herald.Text("refused"))
	if !errors.Is(err, herald.ErrBusDown) {
		s.failf("a Send that cannot be kept returned %v", err)
	}
	s.ok(one.Send(s.Context(), herald.User("a"), herald.Text("volatile").Volatile()))
	s.ok(one.Send(s.Context(), herald.User("a"), herald.Text("unkept").Unkept()))
	v.wants("volatile", "unkept")
	p.wants("volatile", "unkept")
	allow()
	s.await("Send", func() bool { return one.Send(s.Context(), herald.User("a"), herald.Text("kept")) == nil })
	v.wants("kept")
	p.wants("kept")
	v.cut()
	one.send(herald.User("a"), "missed")
	s.await("health", func() bool { return two.Health() == nil }) // the Registry was refused too
	v.comes(two)
	v.complete("missed")
}

func testLost(s *historySuite) {
	one, two := s.node(nil), s.node(nil)
	v, there := s.visit(one, "user=a"), s.visit(two, "user=a")
	v.cut()
	one.send(herald.User("a"), "lost")
	there.wants("lost")
	s.network.Lose()
	s.await("Send", func() bool { return one.Send(s.Context(), herald.User("a"), herald.Text("kept")) == nil })
	v.comes(two)
	if got := v.incomplete(); slices.Contains(got, "lost") {
		s.failf("got %q, which was lost", got)
	}
	there.upTo(device.Gap)
	one.send(herald.User("a"), "live")
	v.wants("live")
	// Several nodes may notice the loss, and each tells of it. Then all is well.
	s.await("still told that something may be missing", func() bool {
		v.cut()
		one.send(herald.User("a"), "missed")
		v.comes(one)
		if got := v.back(); !slices.Equal(got, []string{"missed"}) {
			s.failf("got %q", got)
		}
		return !v.missing
	})
}

func testRestart(s *historySuite) {
	one, two := s.node(nil), s.node(nil)
	v := s.visit(one, "user=a")
	two.send(herald.User("a"), "before")
	v.wants("before")
	down := make(chan error, 1)
	ctx, cancel := context.WithTimeout(s.Context(), historyPatience)
	defer cancel()
	go func() { down <- one.Shutdown(ctx) }()
	if code := v.closed(); code != herald.StatusServiceRestart {
		s.failf("closed with %d, want %d", code, herald.StatusServiceRestart)
	}
	s.ok(<-down)
	two.send(herald.User("a"), "meanwhile")
	v.comes(two)
	v.complete("meanwhile")
	v.cut()
	two.send(herald.User("a"), "again")
	v.comes(s.node(nil))
	v.complete("again")
}
