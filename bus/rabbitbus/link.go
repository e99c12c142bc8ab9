package rabbitbus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rabbitmq/amqp091-go"

	"github.com/heraldgo/herald"
)

// A dialer opens links.
type dialer struct {
	url      string
	exchange string
	config   amqp091.Config
	connect  time.Duration // for a TCP connection
	timeout  time.Duration // for an answer
}

// errURL does not quote the URL, nor what the parser says of it: either may
// hold a part of the password.
var errURL = fmt.Errorf("%w: url: must be amqp://user:password@host:port/vhost or amqps://…, "+
	"with what is special in a URL percent-encoded, and parameters that amqp091.ParseURI knows", herald.ErrInvalid)

func newDialer(url string, o Options) (*dialer, error) {
	uri, err := amqp091.ParseURI(url)
	if err != nil {
		return nil, errURL
	}
	return &dialer{
		url:      url,
		exchange: o.Exchange,
		config:   o.Config,
		connect:  cmp.Or(time.Duration(uri.ConnectionTimeout)*time.Millisecond, 5*time.Second),
		timeout:  o.ProbeTimeout,
	}, nil
}

// A link is one connection to RabbitMQ and one channel, and never gets others. A
// fault of either makes it dead.
type link struct {
	conn    *amqp091.Connection
	channel *amqp091.Channel
	raw     net.Conn // below conn, and below TLS
	timeout time.Duration
	owner   atomic.Bool // this link owns the queue that keeps the order

	running sync.WaitGroup // watch, and the reader of deliveries
	dead    chan struct{}  // closed when err is set

	mu      sync.Mutex
	err     error // why the link is dead
	blocked error // why RabbitMQ does not read from it, or nil
}

// dial opens a link and lets setup, which may use its channel only, make it
// ready. name is what operators see.
func (d *dialer) dial(ctx context.Context, name string, setup func(*link) error) (*link, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, d.connect+d.timeout,
		fmt.Errorf("rabbitbus: RabbitMQ has not opened a session within %v", d.connect+d.timeout))
	defer cancel()
	l := &link{timeout: d.timeout, dead: make(chan struct{})}
	stop := func() bool { return true }
	config := d.config
	config.Dial = func(network, addr string) (net.Conn, error) {
		conn, err := d.open(ctx, network, addr)
		if err == nil {
			l.raw = conn
			// This is the one deadline of all that follows.
			stop = context.AfterFunc(ctx, func() { conn.Close() })
		}
		return conn, err
	}
	if config.TLSClientConfig != nil {
		config.TLSClientConfig = config.TLSClientConfig.Clone() // the client writes to it
	}
	config.Properties = maps.Clone(config.Properties) // to this too
	if len(config.Properties) == 0 {
		config.Properties = amqp091.NewConnectionProperties()
	}
	config.Properties.SetClientConnectionName(name)

	err := l.open(d.url, config, setup)
	if !stop() && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		if l.raw != nil {
			l.close(err)
		}
		return nil, err
	}
	return l, nil
}

// open opens a TCP connection.
func (d *dialer) open(ctx context.Context, network, addr string) (net.Conn, error) {
	if d.config.Dial != nil {
		return d.config.Dial(network, addr)
	}
	return (&net.Dialer{Timeout: d.connect}).DialContext(ctx, network, addr)
}

func (l *link) open(url string, config amqp091.Config, setup func(*link) error) error {
	conn, err := amqp091.DialConfig(url, config)
	if err != nil {
		return err
	}
	l.conn = conn
	if l.channel, err = conn.Channel(); err != nil {
		return err
	}
	// The client closes these channels when the connection ends. Until then it blocks
	// while one of them is full.
	connection := conn.NotifyClose(make(chan *amqp091.Error, 1))
	channel := l.channel.NotifyClose(make(chan *amqp091.Error, 1))
	canceled := l.channel.NotifyCancel(make(chan string, 1))
	blocked := conn.NotifyBlocked(make(chan amqp091.Blocking, 1))
	l.running.Go(func() { l.watch(connection, channel, canceled, blocked) })
	return setup(l)
}

// errCanceled is why a link from which nothing comes any more dies.
var errCanceled = errors.New("rabbitbus: RabbitMQ has ended the consumer: its queue was deleted")

// watch takes what RabbitMQ says unasked until the connection has ended.
func (l *link) watch(connection, channel <-chan *amqp091.Error, canceled <-chan string, blocked <-chan amqp091.Blocking) {
	for connection != nil || channel != nil || canceled != nil || blocked != nil {
		select {
		case err, ok := <-connection:
			if !ok {
				connection = nil
			}
			l.fail(lost("connection", err))
		case err, ok := <-channel:
			if !ok {
				channel = nil
			}
			l.fail(lost("channel", err))
		case _, ok := <-canceled:
			if ok {
				l.fail(errCanceled)
			} else {
				canceled = nil
			}
		case b, ok := <-blocked:
			if !ok {
				blocked = nil
			}
			l.block(b)
		}
	}
}

// lost returns why a link died if its connection or channel was closed with err.
func lost(what string, err *amqp091.Error) error {
	if err == nil {
		return fmt.Errorf("rabbitbus: the %s was closed", what)
	}
	return fmt.Errorf("rabbitbus: the %s was closed: %w", what, err)
}

func (l *link) block(b amqp091.Blocking) {
	var err error
	if b.Active {
		err = fmt.Errorf("rabbitbus: RabbitMQ blocks connections that publish: %s", b.Reason)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.blocked = err
}

// mark makes the link dead, for the reason err, and reports whether it was alive.
func (l *link) mark(err error) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return false
	}
	l.err = err
	close(l.dead)
	return true
}

// fail makes the link dead, for the reason err. It does not block.
func (l *link) fail(err error) {
	if l.mark(err) {
		l.raw.Close()
	}
}

// close makes the link dead and waits for its goroutines.
func (l *link) close(err error) {
	l.fail(err)
	l.running.Wait()
}

// farewell is how long RabbitMQ may take for the closing handshake.
const farewell = time.Second

// leave makes the link dead with AMQP's closing handshake, so that RabbitMQ logs no
// fault. before is called while the link still works.
func (l *link) leave(before func()) {
	if l.stuck() != nil {
		l.fail(herald.ErrClosed)
		return
	}
	cut := time.AfterFunc(2*farewell, func() { l.raw.Close() })
	before()
	if l.mark(herald.ErrClosed) {
		l.conn.CloseDeadline(time.Now().Add(farewell))
		l.raw.Close()
	}
	cut.Stop()
}

// guard makes the link dead if the function that it returns is not called
// within the link's timeout.
func (l *link) guard(what string) (done func()) {
	timer := time.AfterFunc(l.timeout, func() {
		l.fail(fmt.Errorf("rabbitbus: RabbitMQ did not let us %s within %v", what, l.timeout))
	})
	return func() { timer.Stop() }
}

// reason returns why the link is dead, or nil.
func (l *link) reason() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// stuck returns why nothing may be written to the link, or nil.
func (l *link) stuck() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return cmp.Or(l.err, l.blocked)
}
