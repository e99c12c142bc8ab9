package attacktest

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/heraldgo/herald/internal/test/wsraw"
)

// A client is an honest client. It sends to the next one in the crowd, and receives
// from the one before.
type client struct {
	i  int
	ws *wsraw.Conn

	mu        sync.Mutex // guards the rest
	sent      int
	refused   map[int]bool // of sent: those that the service said it had not sent
	got       map[int]bool // messages that have come from the one before
	twice     int
	changed   int // of got: those that differ from what was sent
	packed    int // of got: those that were compressed
	latencies []time.Duration
	end       error // a *wsraw.Closed if there was a close frame
}

// A crowd is a set of honest clients, some of them members of the room.
type crowd struct {
	t       testing.TB
	clients []*client
	stop    chan struct{}
	running sync.WaitGroup
	sending sync.WaitGroup
}

// gather connects n clients, each of which sends a message in every interval pace.
// With compress, every fifth client compresses.
func gather(t testing.TB, addr string, n, members int, pace time.Duration, compress bool) *crowd {
	t.Helper()
	c := &crowd{t: t, stop: make(chan struct{})}
	for i := range n {
		path := fmt.Sprintf("/?user=honest%d", i)
		if i < members {
			path += "&groups=" + room
		}
		var header http.Header
		if compress && i%5 == 0 {
			header = offer
		}
		ws, err := connect(addr, path, header)
		if err != nil {
			t.Fatalf("honest client %d: %v", i, err)
		}
		c.clients = append(c.clients, &client{i: i, ws: ws, refused: make(map[int]bool), got: make(map[int]bool)})
	}
	for _, one := range c.clients {
		c.running.Go(one.read)
		c.sending.Go(func() { one.send((one.i+1)%n, pace, c.stop) })
	}
	t.Cleanup(func() {
		for _, one := range c.clients {
			one.ws.Close()
		}
		c.running.Wait()
	})
	return c
}

// connect opens a WebSocket from 127.0.0.1, an address that no attacker has.
func connect(addr, path string, header http.Header) (*wsraw.Conn, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}, Timeout: patience}
	c, err := d.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	c.(*net.TCPConn).SetLinger(0)
	ws, response, err := wsraw.Handshake(c, path, header)
	if err != nil {
		c.Close()
		return nil, err
	}
	ws.Compressed = response.Header.Get("Sec-Websocket-Extensions") != ""
	return ws, nil
}

// padding makes a message long enough to be compressed.
var padding = strings.Repeat("<a-long-message/>", 40)

func (c *client) send(to int, pace time.Duration, stop <-chan struct{}) {
	ticker := time.NewTicker(pace)
	defer ticker.Stop()
	for n := 0; ; n++ {
		select {
		case <-stop:
			return
		case <-ticker.C:
		}
		text := fmt.Sprintf("%c honest%d %d %d %s", deliver, to, n, time.Now().UnixNano(), padding)
		c.mu.Lock()
		c.sent++ // counted first, because it may arrive before WriteFrames returns
		ended := c.end != nil
		c.mu.Unlock()
		f := wsraw.Frame{Fin: true, Opcode: wsraw.Text, Payload: []byte(text)}
		if c.ws.Compressed {
			f.RSV, f.Payload = rsv1, wsraw.Deflate(f.Payload)
		}
		if ended || c.ws.WriteFrames(f) != nil {
			c.mu.Lock()
			c.sent--
			c.mu.Unlock()
			return
		}
	}
}

func (c *client) read() {
	for {
		f, err := c.ws.ReadFrame()
		now := time.Now()
		if err == nil && f.Opcode == wsraw.Ping {
			c.ws.WriteFrames(wsraw.Frame{Fin: true, Opcode: wsraw.Pong, Payload: f.Payload})
		}
		if err == nil && f.RSV == rsv1 {
			f.Payload, err = wsraw.Inflate(f.Payload)
		}
		c.mu.Lock()
		switch {
		case err != nil:
			c.end = err
		case f.Opcode == wsraw.Close && len(f.Payload) >= 2:
			c.end = &wsraw.Closed{Code: uint16(f.Payload[0])<<8 | uint16(f.Payload[1]), Reason: string(f.Payload[2:])}
		case f.Opcode == wsraw.Text:
			if f.RSV == rsv1 {
				c.packed++
			}
			c.take(string(f.Payload), now)
		}
		ended := c.end != nil
		c.mu.Unlock()
		if ended {
			return
		}
	}
}

// take notes a message, or the service's answer that it did not send one of the
// client's own. The caller holds c.mu.
func (c *client) take(text string, now time.Time) {
	words := strings.Fields(text)
	if words[0] == "x" {
		n, _ := strconv.Atoi(words[1])
		c.refused[n] = true
		return
	}
	n, _ := strconv.Atoi(words[0])
	at, _ := strconv.ParseInt(words[1], 10, 64)
	if c.got[n] {
		c.twice++
	}
	if len(words) != 3 || words[2] != padding {
		c.changed++
	}
	c.got[n] = true
	c.latencies = append(c.latencies, now.Sub(time.Unix(0, at)))
}

// A fate is what became of a crowd's messages.
type fate struct {
	sent, got, refused int
	lost, twice        int            // lost counts only between clients that are still connected
	changed, packed    int            // of got: those that differ from what was sent; those that were compressed
	closed             map[string]int // the number of clients by close code
	untold             int            // the number of clients that lost their connection without a close frame
	latencies          []time.Duration
}

// settle stops the sending, waits until every message has arrived, and accounts for
// them.
func (c *crowd) settle() fate {
	close(c.stop)
	c.sending.Wait()
	var f fate
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		if f = c.account(); f.lost == 0 || time.Now().After(deadline) {
			return f
		}
	}
}

func (c *crowd) account() fate {
	f := fate{closed: make(map[string]int)}
	for i, sender := range c.clients {
		receiver := c.clients[(i+1)%len(c.clients)]
		sender.mu.Lock()
		sent, refused, senderEnd := sender.sent, maps.Clone(sender.refused), sender.end
		sender.mu.Unlock()
		receiver.mu.Lock()
		got, receiverEnd := len(receiver.got), receiver.end
		maps.DeleteFunc(refused, func(n int, _ bool) bool { return receiver.got[n] }) // its outcome was unknown
		f.twice, f.changed, f.packed = f.twice+receiver.twice, f.changed+receiver.changed, f.packed+receiver.packed
		f.latencies = append(f.latencies, receiver.latencies...)
		receiver.mu.Unlock()
		f.sent, f.got, f.refused = f.sent+sent, f.got+got, f.refused+len(refused)
		if senderEnd == nil && receiverEnd == nil {
			f.lost += sent - got - len(refused)
		}
		var told *wsraw.Closed
		if errors.As(senderEnd, &told) {
			f.closed[told.Error()]++
		} else if senderEnd != nil {
			f.untold++
		}
	}
	slices.Sort(f.latencies)
	return f
}

// told lists how clients were closed.
func (f fate) told() string {
	if len(f.closed) == 0 && f.untold == 0 {
		return ""
	}
	return fmt.Sprintf("; ended: %v, untold %d", f.closed, f.untold)
}

// logins are the attempts of a victim that logs in over and over, each time as
// another user.
type logins struct {
	tried, good int
	failures    map[string]int
	latencies   []time.Duration
}

// logIn logs in over and over until stop is closed.
func logIn(addr string, stop <-chan struct{}) logins {
	l := logins{failures: make(map[string]int)}
	ticker := time.NewTicker(15 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-stop:
			slices.Sort(l.latencies)
			return l
		case <-ticker.C:
		}
		l.tried++
		began := time.Now()
		ws, err := connect(addr, fmt.Sprintf("/?user=victim%d", l.tried), nil)
		if err != nil {
			l.failures[err.Error()]++
			continue
		}
		l.good++
		l.latencies = append(l.latencies, time.Since(began))
		ws.Close()
	}
}

// percentile returns the p-th percentile of sorted durations.
func percentile(sorted []time.Duration, p int) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)*p/100, len(sorted)-1)].Round(100 * time.Microsecond)
}
