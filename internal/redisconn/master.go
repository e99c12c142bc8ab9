package redisconn

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// An old master may call itself a master and answer every question well. It does
// so for some ten seconds after a failover that was asked for, and when it comes
// back after it was taken for dead. If it is left with a minority of the
// Sentinels it does so for as long as the network is split. A node that is linked
// to it hears nothing of the nodes that are linked to the new master. So a server
// is believed only while most Sentinels name it. Nodes that left it before the
// others may have missed what was published there in the meantime: a notice on
// the new master tells them.

const (
	// failoverAddr is what go-redis calls the address of a client that asks
	// Sentinels.
	failoverAddr = "FailoverClient"

	// SentinelLag is how long Sentinels may name different masters: they tell
	// each other every two seconds
	// (https://redis.io/docs/latest/operate/oss_and_stack/management/sentinel).
	SentinelLag = 2 * time.Second

	// minMasterAge is the least age at which the word of the Sentinels counts as old:
	// two messages of a Sentinel have been missed, and a second has gone by.
	minMasterAge = 2*SentinelLag + time.Second

	// renamedAfter is how long no majority may have named a server before the
	// addresses that were learned are forgotten.
	renamedAfter = time.Minute
)

var (
	// ErrMoved is the reason for leaving a server.
	ErrMoved = errors.New("herald: the Sentinels name another master")

	// ErrHelloDenied says what to allow if Redis denies listening to the Sentinels.
	ErrHelloDenied = errors.New("allow SUBSCRIBE with the channel " + sentinelChannel + " (ACL SETUSER <user> +subscribe &" + sentinelChannel + ")")

	errNoMajority = errors.New("herald: no majority of the Sentinels names this master")
)

// A Master follows what the Sentinels say of the master. It is nil if there are none;
// Proved and Health allow that.
//
// go-redis asks one of the Sentinels for the master whenever it dials. The others are
// heard on the master itself, where each publishes every two seconds which master it
// names. So herald needs neither their addresses nor their credentials.
type Master struct {
	options *redis.Options // for a link
	timeout time.Duration  // for an answer
	age     time.Duration  // after which their word is old

	// Used by the listening goroutine alone.

	votes   sentinelVotes
	ear     *sentinelEar
	servers map[string]string // their addresses, by the names that Sentinels give them if those differ
	literal bool              // names are addresses

	mu     sync.Mutex
	server string    // the one that a majority has last named; "" at first
	named  time.Time // when that was
	why    error     // why none has named it since
	ledTo  string    // the server that go-redis has last led to
	led    time.Time // when that was
}

// NewMaster returns a Master for the Sentinels of a client, or nil if it has none.
func NewMaster(user *redis.Options, timeout time.Duration) *Master {
	if user.Addr != failoverAddr {
		return nil
	}
	return &Master{
		options: LinkOptions(user, timeout),
		timeout: timeout,
		age:     max(timeout, minMasterAge),
		votes:   make(sentinelVotes),
		servers: make(map[string]string),
		named:   time.Now(),
	}
}

// confirm notes that a majority named the server at that time.
func (m *Master) confirm(server string, at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.server != server || at.After(m.named) {
		m.server, m.named = server, at
	}
	m.why = nil
}

// confirmLed confirms the server if go-redis has led to it.
func (m *Master) confirmLed(server string) {
	if led := m.lastLed(server); !led.IsZero() {
		m.confirm(server, led)
	}
}

// lastLed returns when go-redis has last led to a server; zero if it has led
// elsewhere since.
func (m *Master) lastLed(server string) time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ledTo != server {
		return time.Time{}
	}
	return m.led
}

func (m *Master) doubt(why error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.why = why
}

// Proved returns up to when a proof of a server, made at the time at, counts: at most
// up to SentinelLag before a majority has last named that server. It is zero if
// another server was named last.
func (m *Master) Proved(server string, at time.Time) time.Time {
	if m == nil {
		return at
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch known := m.named.Add(-SentinelLag); {
	case m.server != server:
		return time.Time{}
	case known.Before(at):
		return known
	}
	return at
}

// Health returns why a server may have been replaced, or nil.
func (m *Master) Health(server string) error {
	if m == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.server == server && time.Since(m.named) <= m.age:
		return nil
	case m.why == nil:
		return errNoMajority
	}
	return fmt.Errorf("%w: %w", errNoMajority, m.why)
}

// Open confirms the first server, and tries whether the Sentinels can be heard on it.
// If Redis denies that, the error wraps ErrHelloDenied.
func (m *Master) Open(ctx context.Context) error {
	conn, err := Dial(ctx, m.options)
	if err != nil {
		return err
	}
	m.confirm(conn.RemoteAddr().String(), time.Now())
	if err = m.attend(ctx, conn); err == nil {
		err = m.listen(ctx)
	}
	if said, ok := errors.AsType[Error](err); ok {
		err = fmt.Errorf("%w: %w", ErrHelloDenied, said)
	}
	return err
}

// Follow asks at every tick who the master is, and tells lead its address, so that
// lead moves what is linked to another server. It also listens to what the
// Sentinels say on the master. It returns when ctx ends.
func (m *Master) Follow(ctx context.Context, tick time.Duration, lead func(server string)) {
	conns := make(chan net.Conn, 1)
	var asking sync.WaitGroup
	asking.Go(func() { m.ask(ctx, tick, lead, conns) })
	defer func() {
		asking.Wait()
		select {
		case conn := <-conns:
			conn.Close()
		default:
		}
		m.stopListening()
	}()
	timer := time.NewTicker(listenEach)
	defer timer.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case conn := <-conns:
			err = m.attend(ctx, conn)
		case <-timer.C:
			err = m.listen(ctx)
		}
		if err != nil {
			m.doubt(err)
		}
	}
}

// ask has go-redis dial the master at every tick. A Sentinel that is cut off may keep
// go-redis for half a minute, so nothing else waits for it. It gets no deadline,
// because after that it would not go on to another Sentinel.
func (m *Master) ask(ctx context.Context, tick time.Duration, lead func(server string), conns chan<- net.Conn) {
	timer := time.NewTicker(tick)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		start := time.Now()
		conn, err := Dial(ctx, m.options)
		if err != nil {
			m.doubt(err)
			continue
		}
		server := conn.RemoteAddr().String()
		m.mu.Lock()
		m.ledTo, m.led = server, start
		m.mu.Unlock()
		lead(server)
		select {
		case conns <- conn:
		default:
			conn.Close()
		}
	}
}

// isNamed reports whether the server is the one that the Sentinels call name. The user's
// Dialer may reach it at an address that they do not know. isNamed learns such an
// address, but the first only once the name is settled: in the middle of a failover
// it may be another server's. Until then known is false.
func (m *Master) isNamed(ctx context.Context, server, name string, settled bool) (is, known bool) {
	ctx, cancel := context.WithTimeout(ctx, m.timeout)
	defer cancel()
	host, port, _ := net.SplitHostPort(name)
	addrs, _ := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	for _, addr := range addrs {
		if net.JoinHostPort(addr.Unmap().String(), port) == server {
			m.literal = true
			return true, true
		}
	}
	if m.literal {
		return false, true
	}
	m.mu.Lock()
	if time.Since(m.named) > renamedAfter {
		clear(m.servers)
	}
	m.mu.Unlock()
	its, ok := m.servers[name]
	if !ok {
		if len(m.servers) == 0 && !settled {
			return false, false
		}
		for _, other := range m.servers {
			if other == server {
				return false, true
			}
		}
		m.servers[name], its = server, server
	}
	return its == server, true
}
