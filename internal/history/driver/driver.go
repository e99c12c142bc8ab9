package driver

import (
	"context"
	"sync"
	"time"

	"github.com/heraldgo/herald/internal/errs"
	"github.com/heraldgo/herald/internal/history/device"
	"github.com/heraldgo/herald/internal/history/node"
	"github.com/heraldgo/herald/internal/wake"
)

// A Config says what a Driver drives. All of it has to be set.
type Config struct {
	Partitions []Partition // at most history.MaxPartitions
	Hub        Hub

	Feed   node.Limits
	Device device.Limits

	Retention time.Duration
	Rate      int // surveys a second that devices may ask for
	Burst     int // surveys that they may ask for at once
	Bytes     int // of pages that wait in the queues of devices that come back, and of what was read ahead
}

// A Partition is a node's access to one partition: its Log, and the Bus that
// subscribes.
type Partition struct {
	Log Log
	Bus Bus
}

const (
	callTimeout   = 2 * time.Second        // for one call of a Log
	appendTimeout = 5 * time.Second        // for one batch, which may be large
	readTimeout   = giveUp                 // for one call that reads entries, which may be large
	giveUp        = 10 * time.Second       // how long a question may go without an answer
	pause         = 100 * time.Millisecond // before a question is put again
	fenceEvery    = time.Second
	quietFences   = 4 // of all partitions in fenceEvery, while nothing is published or followed
	settling      = 3 // fences after a topic is followed: one may be on its way, and two are needed to show holes
)

// A Driver is the History of one node. Its methods may be called concurrently, except
// Push, which has one caller. While the owner calls a Hub or a Conn, these must not
// call the Driver, and of a Session only the methods that do not wait.
type Driver struct {
	hub    Hub
	sides  []*side
	limits device.Limits

	calls  chan func()
	came   wake.Signal // pushed may have an event
	room   wake.Signal // pushed may have room
	look   wake.Signal // looks may have a session
	quit   chan struct{}
	ended  chan struct{}  // closed when the owner has ended
	tasks  sync.WaitGroup // calls of Logs
	once   sync.Once      // Close
	ctx    context.Context
	cancel context.CancelFunc // ends the calls of Logs

	// Used by the owner alone.
	sessions  map[*Session]struct{}
	beginners []beginner
	replays   replays
	alarm     alarm

	taken []event // taken from pushed; its memory is used again

	mu     sync.Mutex
	pushed []event    // for the owner, at most maxEvents
	looks  []*Session // that the owner has to look at
}

// An event is an Event and its partition.
type event struct {
	Event
	partition int
}

// maxEvents is how many events wait for the owner. Push waits if there are more.
const maxEvents = 256

// New starts a Driver, which Close ends. All its links are down.
func New(c Config) *Driver {
	d := &Driver{
		hub: c.Hub, limits: c.Device,
		calls: make(chan func()), came: wake.New(), room: wake.New(), look: wake.New(),
		quit: make(chan struct{}), ended: make(chan struct{}),
		sessions: make(map[*Session]struct{}),
		replays:  replays{rate: c.Rate, burst: c.Burst, most: c.Bytes},
		alarm:    alarm{timer: time.NewTimer(time.Hour)},
	}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	for i, p := range c.Partitions {
		d.sides = append(d.sides, newSide(d, i, p, c))
	}
	go d.run()
	return d
}

// Close ends all calls, with errs.Closed, and waits for all goroutines of the Driver.
// It may be called twice.
func (d *Driver) Close() {
	d.once.Do(func() {
		d.cancel()
		for _, s := range d.sides {
			s.batcher.Close(errs.Closed)
		}
		close(d.quit)
	})
	<-d.ended
	d.tasks.Wait()
}

// Push takes what the inbox hands over for a partition. It waits if the owner is
// behind.
func (d *Driver) Push(partition int, e Event) {
	for {
		d.mu.Lock()
		n := len(d.pushed)
		if n < maxEvents {
			d.pushed = append(d.pushed, event{e, partition})
		}
		d.mu.Unlock()
		if n == 0 {
			d.came.Set()
		}
		if n < maxEvents {
			return
		}
		select {
		case <-d.room:
		case <-d.ended:
			return
		}
	}
}

// takePushed takes all events that wait, so that the owner wakes once for many of
// them.
func (d *Driver) takePushed() {
	d.mu.Lock()
	d.pushed, d.taken = d.taken, d.pushed
	d.mu.Unlock()
	d.room.Set()
	for i := range d.taken {
		d.sides[d.taken[i].partition].take(d.taken[i].Event)
	}
	clear(d.taken)
	d.taken = d.taken[:0]
}

// Doubt says that packets that were published after since may have been lost in any
// partition without its feed having seen it: a heartbeat was missed, for instance.
// Unlike Push it may be called by anybody. It waits for the owner.
func (d *Driver) Doubt(since time.Time) {
	d.post(func() {
		for _, s := range d.sides {
			s.take(Event{Kind: Doubt, Since: since})
		}
	})
}

// Renew ends the epoch of each partition as soon as its log answers. It is called if
// messages were published, or will be, that no log has: a position then does not tell
// what is missing. It waits for the owner, not for the logs.
func (d *Driver) Renew() {
	d.post(func() {
		for _, s := range d.sides {
			s.renew = s.feed.At().Epoch
		}
		d.alarm.by(time.Now())
	})
}

// Health returns why the log of a partition does not answer, or nil.
func (d *Driver) Health() error {
	for _, s := range d.sides {
		if err := s.failing.Load(); err != nil {
			return *err
		}
	}
	return nil
}

func (d *Driver) run() {
	defer close(d.ended)
	for {
		select {
		case <-d.came:
			d.takePushed()
		case f := <-d.calls:
			f()
		case <-d.look:
			d.lookAt()
		case <-d.alarm.timer.C:
			d.tick(d.alarm.rings())
		case <-d.quit:
			return
		}
	}
}

// tick does everything that is due.
func (d *Driver) tick(now time.Time) {
	for _, s := range d.sides {
		s.tick(now)
	}
	d.resume(now)
	d.turns()
	d.tellLate()
}

// tell has the owner run f, and returns when it has.
func (d *Driver) tell(ctx context.Context, f func()) error {
	done := make(chan struct{})
	select {
	case d.calls <- func() { f(); close(done) }:
		<-done
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-d.ended:
		return errs.Closed
	}
}

// wait waits until the owner closes done.
func (d *Driver) wait(ctx context.Context, done <-chan struct{}) error {
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-d.ended:
		return errs.Closed
	}
}

// call makes a call of a Log in a goroutine of its own. The owner then runs the
// answer that f returns.
func (d *Driver) call(f func(ctx context.Context) (answer func())) { d.callFor(callTimeout, f) }

// callFor is call with another timeout.
func (d *Driver) callFor(timeout time.Duration, f func(ctx context.Context) (answer func())) {
	d.tasks.Go(func() {
		ctx, cancel := context.WithTimeout(d.ctx, timeout)
		defer cancel()
		d.post(f(ctx))
	})
}

// post has the owner run f.
func (d *Driver) post(f func()) {
	select {
	case d.calls <- f:
	case <-d.ended:
	}
}

// An alarm wakes the owner when the first thing is due.
type alarm struct {
	timer *time.Timer
	at    time.Time // zero if nothing is due
}

// by makes the alarm ring at a time, or before.
func (a *alarm) by(at time.Time) {
	if a.at.IsZero() || at.Before(a.at) {
		a.at = at
		a.timer.Reset(time.Until(at))
	}
}

// rings notes that the alarm has rung. Whatever is due later has to call by again.
func (a *alarm) rings() (now time.Time) {
	a.at = time.Time{}
	return time.Now()
}
