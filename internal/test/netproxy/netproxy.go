// Package netproxy is a TCP proxy on loopback that a test can make fail.
package netproxy

import (
	"bytes"
	"net"
	"sync"
	"testing"
)

// A Proxy forwards connections to a target. Its methods may be called concurrently.
type Proxy struct {
	Addr string // where it listens

	target   string
	listener net.Listener
	running  sync.WaitGroup

	mu     sync.Mutex
	pairs  []*Pair
	hole   bool
	stalls map[string]chan struct{} // by the client's host, or "" for all; closed when the stall ends
	closed bool
}

// A Pair is one connection through the proxy.
type Pair struct {
	client, server net.Conn
	proxy          *Proxy

	ended chan struct{} // closed when nothing more is forwarded to the server

	mu      sync.Mutex
	written []byte // what the client has sent, up to maxNoted bytes
	mute    bool
	lost    bool   // a black hole has taken a part of the stream
	swallow []byte // the beginning of a RESP push, the next of which is not passed on
	held    []byte // while swallow is set: bytes that wait to be passed on
}

// Start starts a proxy that is closed when the test ends.
func Start(t testing.TB, target string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{Addr: l.Addr().String(), target: target, listener: l, stalls: make(map[string]chan struct{})}
	p.running.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.target)
		if err != nil {
			reset(client)
			continue
		}
		pair := &Pair{client: client, server: server, proxy: p, ended: make(chan struct{})}
		p.mu.Lock()
		closed := p.closed
		p.pairs = append(p.pairs, pair)
		p.mu.Unlock()
		if closed {
			pair.Cut()
		}
		p.running.Go(func() {
			defer close(pair.ended)
			pair.forward(server, client, pair.note)
		})
		p.running.Go(func() { pair.forward(client, server, pair.censor) })
	}
}

// forward copies from one side to the other what pass returns of it.
func (c *Pair) forward(to, from net.Conn, pass func([]byte) []byte) {
	defer c.Cut()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		c.awaitFlow()
		if b := pass(buf[:n]); len(b) > 0 && !c.isLost() {
			if _, err := to.Write(b); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// isLost reports whether a black hole has taken bytes of the connection. Later
// bytes can never arrive then, because TCP leaves no gaps.
func (c *Pair) isLost() bool {
	hole := c.proxy.isHole()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lost = c.lost || hole
	return c.lost
}

// maxNoted bounds what Find looks at. Under the race detector, keeping a flood
// would delay it by seconds each time the buffer grows.
const maxNoted = 4 << 20

func (c *Pair) note(b []byte) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.written = append(c.written, b[:min(len(b), maxNoted-len(c.written))]...)
	return b
}

// censor returns what Mute and Swallow leave of the server's bytes.
func (c *Pair) censor(b []byte) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mute {
		return nil
	}
	if c.swallow == nil {
		return b
	}
	c.held = append(c.held, b...)
	header := []byte(">3\r\n")
	before, after, found := bytes.Cut(c.held, append(header, c.swallow...))
	_, after, whole := bytes.Cut(after, []byte("\r\n"))
	if !found || !whole {
		return nil
	}
	b = append(before, after...)
	c.swallow, c.held = nil, nil
	return b
}

func (p *Proxy) isHole() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.hole
}

// Stall makes the proxy stop reading in both directions until it is switched off.
// Nothing is lost, but everything comes late.
func (p *Proxy) Stall(on bool) { p.StallHost("", on) }

// StallHost stalls the connections of clients with one address, as a split network
// does.
func (p *Proxy) StallHost(host string, on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	stall, stalled := p.stalls[host]
	switch {
	case on && !stalled && !p.closed:
		p.stalls[host] = make(chan struct{})
	case !on && stalled:
		close(stall)
		delete(p.stalls, host)
	}
}

// awaitFlow waits until there is no stall.
func (c *Pair) awaitFlow() {
	host, _, _ := net.SplitHostPort(c.client.RemoteAddr().String())
	for _, of := range []string{"", host} {
		c.proxy.mu.Lock()
		stall := c.proxy.stalls[of]
		c.proxy.mu.Unlock()
		if stall != nil {
			<-stall
		}
	}
}

// Blackhole makes the proxy drop everything that is sent in either direction, but
// still accept connections, like a network that loses every packet. A connection
// that has lost something stays dead when the hole is switched off.
func (p *Proxy) Blackhole(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hole = on
}

// Pairs returns all connections so far, including dead ones, the oldest first.
func (p *Proxy) Pairs() []*Pair {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pairs[:len(p.pairs):len(p.pairs)]
}

// Cut resets every connection.
func (p *Proxy) Cut() {
	for _, c := range p.Pairs() {
		c.Cut()
	}
}

// Find returns the newest connection on which the client has sent text within the
// first 4 MB.
func (p *Proxy) Find(text string) *Pair {
	var found *Pair
	for _, c := range p.Pairs() {
		c.mu.Lock()
		if bytes.Contains(c.written, []byte(text)) {
			found = c
		}
		c.mu.Unlock()
	}
	return found
}

// Cut resets the connection.
func (c *Pair) Cut() {
	reset(c.client)
	reset(c.server)
}

// AwaitEnd waits until the server has got everything that it will get.
func (c *Pair) AwaitEnd() { <-c.ended }

// Mute drops what the server sends, or stops doing so.
func (c *Pair) Mute(on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mute = on
}

// Swallow removes from what the server sends the next RESP3 push of three parts
// whose first two are encoded as push. Until it comes, everything is held back.
func (c *Pair) Swallow(push string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.swallow = []byte(push)
}

// Inject sends bytes to the server as if the client had.
func (c *Pair) Inject(b []byte) error {
	_, err := c.server.Write(b)
	return err
}

// reset closes a connection with RST.
func reset(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		t.SetLinger(0)
	}
	c.Close()
}

func (p *Proxy) close() {
	p.mu.Lock()
	p.closed = true
	for _, stall := range p.stalls {
		close(stall)
	}
	p.stalls = nil
	p.mu.Unlock()
	p.listener.Close()
	p.Cut()
	p.running.Wait()
}
