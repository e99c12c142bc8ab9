package receipttest

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/test/wsraw"
)

// A speaker is a client that can come back, as PROTOCOL.md specifies. It reads and
// sends what the test wants, and answers no ping.
type speaker struct {
	*wsraw.Conn
	t       *testing.T
	conn    string // its signed id
	resumed bool
	pings   int
}

// speak connects a speaker. from has its positions and last its previous
// connection; both may be empty.
func (n *node) speak(user, from, last string) *speaker {
	n.t.Helper()
	t := n.t.(*testing.T)
	query := url.Values{"user": {user}, "herald": {"1"}}
	if from != "" {
		query.Set("herald.from", from)
	}
	if last != "" {
		query.Set("herald.conn", last)
	}
	conn, err := n.dial()
	if err != nil {
		t.Fatal(err)
	}
	ws, _, err := wsraw.Handshake(conn, "/?"+query.Encode(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ws.Close() })
	s := &speaker{Conn: ws, t: t}
	kind, line, _ := s.read()
	if kind != "w" {
		t.Fatalf("welcomed with %q %q", kind, line)
	}
	_, rest, _ := strings.Cut(line, `"conn":"`)
	s.conn, _, _ = strings.Cut(rest, `"`)
	s.resumed = strings.Contains(line, `"resumed":true`)
	if _, _, body := s.read(); !strings.HasPrefix(body, "id ") {
		t.Fatalf("greeted with %q", body)
	}
	return s
}

// id returns the connection's id, for Except.
func (s *speaker) id() string {
	id, _, _ := strings.Cut(s.conn, "~")
	return id
}

// read returns the next message, and counts pings.
func (s *speaker) read() (kind, line, body string) {
	s.t.Helper()
	f, err := s.ReadUntil(func(f wsraw.Frame) bool {
		if f.Opcode == wsraw.Ping {
			s.pings++
		}
		return f.Opcode != wsraw.Ping
	})
	if err != nil {
		s.t.Fatal(err)
	}
	line, body, _ = strings.Cut(string(f.Payload), "\n")
	kind, line, _ = strings.Cut(line, " ")
	return kind, line, body
}

// until reads up to a message with the text, and returns the position of that.
func (s *speaker) until(text string) (position string) {
	s.t.Helper()
	for {
		if kind, line, body := s.read(); kind == "m" && body == text {
			position, _, _ = strings.Cut(line, " ")
			return position
		}
	}
}

func (s *speaker) say(text string) {
	s.t.Helper()
	err := s.WriteFrames(wsraw.Frame{Fin: true, Opcode: wsraw.Text, Mask: [4]byte{1, 2, 3, 4}, Payload: []byte(text)})
	if err != nil {
		s.t.Fatal(err)
	}
	synctest.Wait()
}

// A pending is a Deliver that has not returned.
type pending struct {
	t     *testing.T
	began time.Time
	done  chan herald.Delivery
}

// begin starts a Deliver with ten seconds to go. It returns when nothing more can
// happen at once.
func (n *node) begin(target herald.Target, m herald.Message) *pending {
	p := &pending{n.t.(*testing.T), time.Now(), make(chan herald.Delivery, 1)}
	ctx := within(n.t, 10*time.Second)
	go func() {
		d, err := n.Deliver(ctx, target, m)
		if err != nil {
			p.t.Error(err)
		}
		p.done <- d
	}()
	synctest.Wait()
	return p
}

// want checks how many have received and how many have missed the message, and
// whether Deliver returned at once or only when its time was over.
func (p *pending) want(what string, received, missed int, now bool) {
	p.t.Helper()
	d := <-p.done
	if d.ReceivedTotal != received || d.MissedTotal != missed {
		p.t.Errorf("%s: %d received and %d missed, want %d and %d", what, d.ReceivedTotal, d.MissedTotal, received, missed)
	}
	if took := time.Since(p.began); (took == 0) != now {
		p.t.Errorf("%s: it took %v", what, took)
	}
}

func (p *pending) wantOpen(what string) {
	p.t.Helper()
	synctest.Wait()
	if len(p.done) > 0 {
		p.t.Errorf("%s: it is over", what)
	}
}

var keeps = herald.Config{Retention: time.Hour, PingInterval: -1}

// point returns the parts of a position.
func point(t *testing.T, position string) (epoch string, offset int) {
	t.Helper()
	parts := strings.Split(position, ".")
	if len(parts) != 3 {
		t.Fatalf("the position is %q", position)
	}
	fmt.Sscan(parts[2], &offset)
	return parts[1], offset
}

// A client that can come back has received what it acknowledges.
func TestAcknowledged(t *testing.T) {
	for name, test := range map[string]struct {
		said     func(epoch string, offset int) string
		received bool
	}{
		"its position":         {func(e string, o int) string { return fmt.Sprintf("@ 0.%s.%d", e, o) }, true},
		"a later position":     {func(e string, o int) string { return fmt.Sprintf("@ 0.%s.%d", e, o+1) }, true},
		"two partitions":       {func(e string, o int) string { return fmt.Sprintf("@ 0.%s.%d,3.%s.1", e, o, e) }, true},
		"an earlier position":  {func(e string, o int) string { return fmt.Sprintf("@ 0.%s.%d", e, o-1) }, false},
		"of another epoch":     {func(e string, o int) string { return fmt.Sprintf("@ 0.%s1.%d", e[1:], o) }, false},
		"of another partition": {func(e string, o int) string { return fmt.Sprintf("@ 1.%s.%d", e, o) }, false},
		"a probe":              {func(e string, o int) string { return fmt.Sprint("@?", o) }, false},
		"the application's":    {func(e string, o int) string { return fmt.Sprintf("@@ 0.%s.%d", e, o) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, 2, keeps, func(t *testing.T, nodes []*node) {
				s := nodes[1].speak("u", "", "")
				p := nodes[0].begin(herald.User("u"), herald.Text("m"))
				epoch, offset := point(t, s.until("m"))
				p.wantOpen("it is read")
				if s.say(test.said(epoch, offset)); test.received {
					p.want("acknowledged", 1, 0, true)
				} else {
					p.wantOpen(name)
					p.want(name, 0, 1, false)
				}
				if s.pings > 0 {
					t.Errorf("it was pinged %d times", s.pings)
				}
			})
		})
	}
}

// An acknowledgement holds for all earlier messages, whatever is sent between them.
func TestAcknowledgedTogether(t *testing.T) {
	bubble(t, 2, keeps, func(t *testing.T, nodes []*node) {
		s := nodes[1].speak("u", "", "")
		var calls []*pending
		for i := range 3 {
			calls = append(calls, nodes[0].begin(herald.User("u"), herald.Text(fmt.Sprint(i))))
			nodes[0].Send(t.Context(), herald.Everyone(), herald.Text("between"))
		}
		second := s.until("1")
		s.until("2")
		s.say("@ " + second)
		calls[0].want("before it", 1, 0, true)
		calls[1].want("it", 1, 0, true)
		calls[2].want("behind it", 0, 1, false)
	})
}

// A message without a position is answered with a pong. It has none if it was not
// kept, or if the client claims a position ahead of it.
func TestAcknowledgesNothing(t *testing.T) {
	bubble(t, 2, keeps, func(t *testing.T, nodes []*node) {
		pong := func(s *speaker, p *pending, what string) {
			f, err := s.ReadUntil(func(f wsraw.Frame) bool { return f.Opcode == wsraw.Ping })
			if err != nil {
				t.Fatal(err)
			}
			p.wantOpen(what)
			s.say("@ 0.1.1,1.1.1")
			if line := what; strings.HasPrefix(line, "ahead") {
				s.say("@ " + strings.TrimPrefix(line, "ahead "))
			}
			p.wantOpen(what)
			s.WriteFrames(wsraw.Frame{Fin: true, Opcode: wsraw.Pong, Mask: [4]byte{1, 2, 3, 4}, Payload: f.Payload})
			p.want(what, 1, 0, true)
		}
		s := nodes[1].speak("u", "", "")
		pong(s, nodes[0].begin(herald.User("u"), herald.Text("m").Unkept()), "unkept")
		pong(s, nodes[0].begin(herald.User("u"), herald.Text("m").Volatile()), "volatile")
		pong(s, nodes[0].begin(herald.Connection(s.id()), herald.Text("m")), "to a connection")
		p := nodes[0].begin(herald.User("u"), herald.Text("kept"))
		epoch, offset := point(t, s.until("kept"))
		s.say(fmt.Sprintf("@ 0.%s.%d", epoch, offset))
		p.want("kept", 1, 0, true)

		ahead := fmt.Sprintf("0.%s.%d", epoch, offset+1_000_000)
		s = nodes[1].speak("v", ahead, "")
		synctest.Wait()
		pong(s, nodes[0].begin(herald.User("v"), herald.Text("m")), "ahead "+ahead)
	})
}

// A message that was not written cannot be acknowledged, whatever the client makes
// up. If it is dropped or the client is cut off, it is missed at once.
func TestAcknowledgedTooSoon(t *testing.T) {
	config := keeps
	config.QueueMessages, config.DropOldest = 8, true
	for name, then := range map[string]func(t *testing.T, n *node, s *speaker, p *pending){
		"written later": func(t *testing.T, n *node, s *speaker, p *pending) {
			at := s.until("m")
			p.wantOpen("it is read")
			s.say("@ " + at)
			p.want("acknowledged", 1, 0, true)
		},
		"dropped": func(t *testing.T, n *node, s *speaker, p *pending) {
			for range 20 {
				n.Send(t.Context(), herald.User("u"), herald.Text("more"))
			}
			synctest.Wait()
			p.want("dropped", 0, 1, true)
		},
		"cut off": func(t *testing.T, n *node, s *speaker, p *pending) {
			s.Close()
			p.want("cut off", 0, 1, true)
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, 1, config, func(t *testing.T, nodes []*node) {
				s := nodes[0].speak("u", "", "")
				nodes[0].Send(t.Context(), herald.User("u"), herald.Text("first"))
				epoch, offset := point(t, s.until("first"))
				nodes[0].Send(t.Context(), herald.User("u"), herald.Text("blocks")) // over a pipe the write of this waits
				synctest.Wait()
				p := nodes[0].begin(herald.User("u"), herald.Text("m"))
				s.say(fmt.Sprintf("@ 0.%s.%d", epoch, offset+100))
				s.say("@ 0." + epoch + ".18446744073709551615")
				p.wantOpen("it waits in the queue")
				then(t, nodes[0], s, p)
			})
		})
	}
}

// A client that is still reading what it missed gives a receipt when it has read up
// to the message, unless it leaves before.
func TestAcknowledgedBehindBacklog(t *testing.T) {
	config := keeps
	config.QueueMessages = 8
	for _, leaves := range []bool{false, true} {
		bubble(t, 2, config, func(t *testing.T, nodes []*node) {
			s := nodes[1].speak("u", "", "")
			nodes[0].Send(t.Context(), herald.User("u"), herald.Text("first"))
			from := s.until("first")
			s.Close()
			synctest.Wait()
			for i := range 100 {
				nodes[0].Send(t.Context(), herald.User("u"), herald.Text(fmt.Sprint(i)))
			}
			s = nodes[1].speak("u", from, s.conn)
			if synctest.Wait(); !s.resumed {
				t.Fatal("it is not resumed")
			}
			p := nodes[0].begin(herald.User("u"), herald.Text("m"))
			unkept := nodes[0].begin(herald.User("u"), herald.Text("now").Unkept())
			p.wantOpen("it is not read yet")
			if leaves {
				s.until("50")
				s.Close()
				p.want("gone", 0, 1, true)
				unkept.want("gone", 0, 1, true)
				return
			}
			before := s.until("99")
			s.say("@ " + before)
			p.wantOpen("what was before it")
			at := s.until("m")
			p.wantOpen("it is read")
			s.say("@ " + at)
			p.want("acknowledged", 1, 0, true)
			unkept.want("nobody has answered the ping", 0, 1, false)
		})
	}
}

// An acknowledgement on the next connection does not count for a message to the
// connection before.
func TestAcknowledgedLater(t *testing.T) {
	bubble(t, 2, keeps, func(t *testing.T, nodes []*node) {
		s := nodes[1].speak("u", "", "")
		p := nodes[0].begin(herald.User("u"), herald.Text("m"))
		at := s.until("m")
		s.Close()
		p.want("gone", 0, 1, true)
		s = nodes[0].speak("u", at, s.conn)
		s.say("@ " + at)
		p = nodes[1].begin(herald.User("u"), herald.Text("n"))
		s.say("@ " + at)
		p.wantOpen("the message before it")
		s.say("@ " + s.until("n"))
		p.want("acknowledged", 1, 0, true)
	})
}

// A client that is excepted by the id of its previous connection does not get the
// message.
func TestExceptEarlier(t *testing.T) {
	bubble(t, 2, keeps, func(t *testing.T, nodes []*node) {
		first := nodes[1].speak("u", "", "")
		first.Close()
		synctest.Wait()
		s := nodes[0].speak("u", "", first.conn)
		other := nodes[0].speak("u", "", "")
		except := herald.User("u").Except(first.id())
		p := nodes[1].begin(except, herald.Text("m"))
		other.say("@ " + other.until("m"))
		p.want("one of two", 1, 0, true)
		p = nodes[1].begin(except, herald.Text("n").Unkept())
		other.Close()
		p.want("the other goes", 0, 1, true)
		synctest.Wait() // until the Registry has forgotten it
		nodes[1].begin(except, herald.Text("o")).want("nobody else", 0, 0, true)
		nodes[1].begin(herald.Everyone().Except(first.id()), herald.Text("p")).want("everyone else", 0, 0, true)
		nodes[1].Send(context.Background(), herald.User("u"), herald.Text("last"))
		if _, _, body := s.read(); body != "last" {
			t.Errorf("it gets %q", body)
		}
	})
}
