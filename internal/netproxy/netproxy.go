// Package netproxy is a TCP proxy on loopback that a test can make fail.
package netproxy

import (
	"bytes"
	"net"
	"sync"
	"testing"
)

// A Proxy forwards connections to a target. Its methods may be called at the
// same time.
type Proxy struct {
	Addr string // where it listens

	target   string
	listener net.Listener
	running  sync.WaitGroup

	mu     sync.Mutex
	pairs  []*Pair
	hole   bool
	closed bool
}

// A Pair is one connection through the proxy.
type Pair struct {
	client, server net.Conn
	proxy          *Proxy

	mu      sync.Mutex
	written []byte // all that the client has sent
	mute    bool
}

// Start starts a proxy that is closed when the test ends.
func Start(t testing.TB, target string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{Addr: l.Addr().String(), target: target, listener: l}
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
		pair := &Pair{client: client, server: server, proxy: p}
		p.mu.Lock()
		closed := p.closed
		p.pairs = append(p.pairs, pair)
		p.mu.Unlock()
		if closed {
			pair.Cut()
		}
		p.running.Go(func() { pair.forward(server, client, pair.note) })
		p.running.Go(func() { pair.forward(client, server, func([]byte) bool { return !pair.muted() }) })
	}
}

// forward copies from one side to the other while pass says so; else it
// swallows what comes.
func (c *Pair) forward(to, from net.Conn, pass func([]byte) bool) {
	defer c.Cut()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 && pass(buf[:n]) && !c.proxy.isHole() {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (c *Pair) note(b []byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.written = append(c.written, b...)
	return true
}

func (c *Pair) muted() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mute
}

func (p *Proxy) isHole() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.hole
}

// Blackhole makes the proxy swallow all that is sent either way, and accept
// connections all the same, as a network does that loses every packet.
func (p *Proxy) Blackhole(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hole = on
}

// Pairs returns the connections so far, dead ones too, oldest first.
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

// Find returns the newest connection on which the client has sent text.
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

// Mute swallows what the server sends, or no longer.
func (c *Pair) Mute(on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mute = on
}

// Inject sends bytes to the server, as if the client had.
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
	p.mu.Unlock()
	p.listener.Close()
	p.Cut()
	p.running.Wait()
}
