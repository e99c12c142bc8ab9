package heraldclient_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/heraldgo/herald/heraldclient"
)

// patience is how long a test waits for what must come.
const patience = 30 * time.Second

// A pipes is a network of net.Pipes, for tests within a synctest bubble.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case p.conns <- server:
		return client, nil
	case <-p.done:
	case <-ctx.Done():
	}
	return nil, errors.New("nobody listens")
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.once.Do(func() { close(p.done) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

// servePipes starts a server, and returns what dials it. It ends with the test.
func servePipes(t *testing.T, handler http.Handler) *http.Client {
	p := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
	var wg sync.WaitGroup // of handlers, too: the server does not know those that were upgraded
	counted := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		wg.Add(1)
		defer wg.Done()
		handler.ServeHTTP(w, r)
	})
	server := &http.Server{Handler: counted, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	wg.Go(func() { server.Serve(p) })
	transport := &http.Transport{DialContext: p.dial}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		server.Close()
		p.Close()
		wg.Wait()
	})
	return &http.Client{Transport: transport}
}

// A peer is the server's end of a connection, for scripts.
type peer struct {
	*websocket.Conn
	t         *testing.T
	query     url.Values
	listening bool

	mu   sync.Mutex
	said []string
	end  error         // of the reader
	done chan struct{} // closed when the reader has ended
	wg   sync.WaitGroup
}

// leave closes the socket, and waits for the reader.
func (p *peer) leave() {
	p.CloseNow()
	p.wg.Wait()
}

func accept(t *testing.T, w http.ResponseWriter, r *http.Request) *peer {
	c, err := websocket.Accept(w, r, nil)
	if err != nil {
		t.Errorf("accept: %v", err)
		return nil
	}
	c.SetReadLimit(-1)
	return &peer{Conn: c, t: t, query: r.URL.Query(), done: make(chan struct{})}
}

// servePeers lets script have each connection, with its number, and closes it when
// script returns. It ends with the test.
func servePeers(t *testing.T, script func(i int, p *peer)) *http.Client {
	var n atomic.Int64
	return servePipes(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i := int(n.Add(1)) - 1
		if p := accept(t, w, r); p != nil {
			defer p.leave()
			script(i, p)
		}
	}))
}

// welcome is a new client's welcome.
const welcome = `w {"herald":1,"conn":"c.1","user":"42","positions":"0.a.1","resumed":false}` + "\n"

// await waits until the client has gone.
func (p *peer) await() {
	p.listen()
	<-p.done
}

// send sends a text message.
func (p *peer) send(text string) {
	p.Write(context.Background(), websocket.MessageText, []byte(text)) // the client may have gone
}

// listen reads what the client says, from now on. Before, no ping is answered.
func (p *peer) listen() {
	if p.listening {
		return
	}
	p.listening = true
	p.wg.Go(func() {
		defer close(p.done)
		for {
			_, b, err := p.Read(context.Background())
			p.mu.Lock()
			if err != nil {
				p.end = err
				p.mu.Unlock()
				return
			}
			p.said = append(p.said, string(b))
			p.mu.Unlock()
			if n, ok := strings.CutPrefix(string(b), "@?"); ok {
				p.send("! " + n + "\n")
			}
		}
	})
}

// heard returns what the client has said.
func (p *peer) heard() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.said...)
}

// start starts a Client that ends with the test.
func start(t *testing.T, config heraldclient.Config) *heraldclient.Client {
	t.Helper()
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	c, err := heraldclient.New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// next returns the next event.
func next(t *testing.T, c *heraldclient.Client) heraldclient.Event {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*patience) // in a bubble, backoff alone may take minutes
	defer cancel()
	e, err := c.Receive(ctx)
	if err != nil {
		t.Fatalf("Receive: %v", err)
	}
	return e
}

// await returns the next event of a type, and passes all others.
func await[E heraldclient.Event](t *testing.T, c *heraldclient.Client) E {
	t.Helper()
	for {
		if e, ok := next(t, c).(E); ok {
			return e
		}
	}
}

// want checks that the next event is a message.
func want(t *testing.T, c *heraldclient.Client, text string) heraldclient.Message {
	t.Helper()
	e := next(t, c)
	m, ok := e.(heraldclient.Message)
	if !ok || string(m.Data) != text {
		t.Fatalf("%T %+v instead of the message %q", e, e, text)
	}
	return m
}
