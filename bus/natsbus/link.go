package natsbus

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
)

// A link is one connection to a server, and never gets another. One goroutine at a
// time calls do, another reads.
type link struct {
	dialer  *dialer
	server  *server
	conn    net.Conn
	r       *bufio.Reader
	timeout time.Duration // for an answer
	in      *inbound      // nil if nothing is subscribed
	cluster bool          // the server is one of several

	maxPayload atomic.Int64
	life       atomic.Uint64  // reads that brought something
	answering  atomic.Bool    // a PONG of ours is on its way
	running    sync.WaitGroup // read, and the answer
	dead       chan struct{}  // closed when err is set

	mu      sync.Mutex
	current *exchange // that waits for its PONG
	err     error     // why the link is dead
}

// An exchange is a number of commands that are written together, with a PING behind
// them. The server answers in order: refusals come before the PONG, which says that
// it has taken everything else.
type exchange struct {
	refused []refusal     // the reader's, until done is closed
	done    chan struct{} // closed at the PONG
}

// An outcome is how an exchange ended.
type outcome struct {
	written int       // bytes that the server may have got
	refused []refusal // if err is nil
	err     error     // why the link died
}

// dial opens a link to one of the servers, near if it is among them. in is nil for a
// link that only publishes. The error wraps errRefused if a server answered and did
// not let us in.
func (d *dialer) dial(ctx context.Context, near *server, in *inbound) (*link, error) {
	var errs []error
	for _, to := range d.candidates(near) {
		s, err := d.openSession(ctx, to)
		if err != nil {
			if s.refused != "" && !isFull(s.refused) {
				err = fmt.Errorf("%w: %w", errRefused, err)
			}
			d.failed(to)
			errs = append(errs, fmt.Errorf("%s: %w", to.url.Host, err))
			if ctx.Err() != nil {
				break
			}
			continue
		}
		d.discover(to, &s.info)
		l := &link{dialer: d, server: to, conn: s.Conn, r: s.r, timeout: d.timeout, in: in, dead: make(chan struct{})}
		l.cluster = s.info.Cluster != "" || len(s.info.ConnectURLs) > 1
		l.maxPayload.Store(s.info.MaxPayload)
		l.running.Go(l.read)
		return l, nil
	}
	return nil, errors.Join(errs...)
}

// errRefused says that a server answered, and did not let us in.
var errRefused = errors.New("natsbus: NATS refuses the connection")

// slowest is the rate, in bytes a second, at which a link must at least carry
// what is written together.
const slowest = 256 << 10

// patience returns how long an exchange of n bytes may take to be answered,
// or to be followed by any sign of life.
func (l *link) patience(n int) time.Duration {
	return l.timeout + time.Duration(n)*time.Second/slowest
}

// maxPatience is how many timeouts a PONG may take while other things come: a server
// that sends those without end would keep the link for ever.
const maxPatience = 10

// do writes commands, with a PING at their end, and waits for its PONG, or for
// the link to die. A link on which nothing comes for its timeout is dead.
func (l *link) do(commands []byte) outcome {
	e := &exchange{done: make(chan struct{})}
	l.mu.Lock()
	err := l.err
	l.current = e
	l.mu.Unlock()
	if err != nil {
		return outcome{err: err}
	}
	patience := l.patience(len(commands))
	life := l.life.Load()
	n, err := l.write(commands, patience)
	timer := time.NewTimer(patience)
	defer timer.Stop()
	waited := 0
	for err == nil {
		select {
		case <-e.done:
			return outcome{written: n, refused: e.refused}
		case <-l.dead:
			err = l.reason()
		case <-timer.C:
			waited++
			if now := l.life.Load(); now != life && waited < maxPatience {
				life = now
				timer.Reset(l.timeout)
				continue
			}
			l.fail(fmt.Errorf("natsbus: the server has not answered for %v", patience+time.Duration(waited-1)*l.timeout))
		}
	}
	l.running.Wait()
	select {
	case <-e.done: // it came just before the end
		return outcome{written: n, refused: e.refused}
	default:
		return outcome{written: n, err: l.reason()}
	}
}

// write writes b as a whole, and returns how much of it went out. It sets no deadline
// on the connection, because two writers would share it.
func (l *link) write(b []byte, patience time.Duration) (int, error) {
	timer := time.AfterFunc(patience, func() {
		l.fail(fmt.Errorf("natsbus: the server has not read for %v", patience))
	})
	n, err := l.conn.Write(b)
	timer.Stop()
	if err != nil {
		select { // the reader may find out why
		case <-l.dead:
		case <-time.After(lastWords):
		}
		l.fail(fmt.Errorf("write to NATS: %w", err))
	}
	return n, err
}

// lastWords is how long the reader may take to read what the server said before it
// hung up.
const lastWords = 500 * time.Millisecond

// spread gives the other servers of a cluster time to hear of n new subscriptions: a
// server tells them before it confirms, but does not wait for them. On one machine,
// half of what was published at another server right after the confirmation found no
// subscription there.
func (l *link) spread(n int) error {
	if !l.cluster || n == 0 {
		return nil
	}
	select {
	case <-time.After(spreadBase + time.Duration(n)*spreadEach):
		return nil
	case <-l.dead:
		return l.reason()
	}
}

const (
	spreadBase = 20 * time.Millisecond // a hundred times what it takes within one site
	spreadEach = 10 * time.Microsecond
)

// fail makes the link dead, for the reason err. It does not block.
func (l *link) fail(err error) {
	l.mu.Lock()
	first := l.err == nil
	if first {
		l.err = err
	}
	l.mu.Unlock()
	if first {
		close(l.dead)
		closeNow(l.conn)
	}
}

// close makes the link dead and waits for its goroutines.
func (l *link) close(err error) {
	l.fail(err)
	l.running.Wait()
}

// reason returns why the link is dead, or nil.
func (l *link) reason() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// read reads what the server sends until the link is dead.
func (l *link) read() {
	for {
		if err := l.readOne(); err != nil {
			if l.in != nil {
				l.in.flush()
			}
			l.fail(fmt.Errorf("read from NATS: %w", err))
			return
		}
		l.life.Add(1)
		if l.in != nil && l.r.Buffered() == 0 {
			l.in.flush()
		}
	}
}

func (l *link) readOne() error {
	line, err := readLine(l.r)
	if err != nil {
		return err
	}
	word, args, _ := bytes.Cut(line, []byte(" "))
	switch string(bytes.TrimSpace(word)) {
	case "MSG":
		return l.message(args, false)
	case "HMSG":
		return l.message(args, true)
	case "PONG":
		return l.answered()
	case "PING":
		l.answer()
	case "INFO":
		return l.inform(args)
	case "-ERR":
		return l.refuse(errorText(args))
	case "+OK":
	default:
		return fmt.Errorf("%w: %.20q", errProtocol, line)
	}
	return nil
}

func (l *link) message(args []byte, headers bool) error {
	m, err := parseMessage(args, headers)
	if err != nil {
		return err
	}
	if l.in == nil {
		return fmt.Errorf("%w: a message where nothing is subscribed", errProtocol)
	}
	return l.in.message(l.r, m, &l.life)
}

// answered takes a PONG. All that came before it is in the inbox when do returns.
func (l *link) answered() error {
	l.mu.Lock()
	e := l.current
	l.current = nil
	l.mu.Unlock()
	if e == nil {
		return fmt.Errorf("%w: PONG without PING", errProtocol)
	}
	if l.in != nil {
		l.in.flush()
	}
	close(e.done)
	return nil
}

// An exchange has fewer commands than maxRefused, and a refusal names the subject of
// its command.
const (
	maxRefused = 1 << 16
	maxRefusal = 8 << 10
)

// refuse takes an -ERR. An error that does not concern the exchange under way, or
// after which the server closes the connection, ends the link.
func (l *link) refuse(text string) error {
	l.mu.Lock()
	e := l.current
	l.mu.Unlock()
	if e == nil || !isRefusal(text) {
		return refusal(text[:min(len(text), maxRefusal)])
	}
	if len(text) > maxRefusal || len(e.refused) == maxRefused {
		return fmt.Errorf("%w: too much is refused", errProtocol)
	}
	e.refused = append(e.refused, refusal(text))
	return nil
}

// answer answers a PING, off the reader, which must not wait. One answer is
// enough for all that come meanwhile.
func (l *link) answer() {
	if l.answering.Swap(true) {
		return
	}
	l.running.Go(func() {
		l.write([]byte(pong), l.patience(maxMessage)) // perhaps behind what do writes
		l.answering.Store(false)
	})
}

// inform takes an INFO that comes while the link is up: limits and the
// cluster's servers may change.
func (l *link) inform(args []byte) error {
	var info nats.ServerInfo
	if err := json.Unmarshal(args, &info); err != nil {
		return fmt.Errorf("%w: INFO: %w", errProtocol, err)
	}
	l.maxPayload.Store(info.MaxPayload)
	l.dialer.discover(l.server, &info)
	return nil
}
