package watching

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/heraldgo/herald/internal/errs"
	"github.com/heraldgo/herald/internal/wake"
)

// A Config is what a Room needs.
type Config struct {
	// Follow and Unfollow say that the changes of a topic are to be heard, or no
	// longer. They do not block.
	Follow, Unfollow func(topic string)

	// List waits until changes that are published from then on are heard. Then it
	// marks the topic as watched, and lists its sessions.
	List func(ctx context.Context, topic string) (number int64, sessions []Session, err error)

	Every time.Duration // between two lists of a topic
}

const (
	holePatience = time.Second // how long a hole may last, since changes may come out of order
	retryAfter   = time.Second // the pause after a list that failed, and between two if changes may be lost
)

// A Room has the topics that this node watches.
type Room struct {
	config Config

	mu     sync.Mutex
	topics map[string]*topic
	closed bool
	wg     sync.WaitGroup // the goroutines of topics
}

// NewRoom returns a Room without topics.
func NewRoom(config Config) *Room {
	return &Room{config: config, topics: make(map[string]*topic)}
}

// Run waits until ctx is done. Then it ends the watching of all topics, and waits for
// their goroutines.
func (r *Room) Run(ctx context.Context) {
	<-ctx.Done()
	r.mu.Lock()
	r.closed = true
	for _, t := range r.topics {
		t.cancel()
	}
	r.mu.Unlock()
	r.wg.Wait()
}

// Hear takes a packet for those who watch a topic. ok is false if nobody does.
func (r *Room) Hear(topic string, data []byte) (ok bool, err error) {
	r.mu.Lock()
	t := r.topics[topic]
	r.mu.Unlock()
	if t == nil {
		return false, nil
	}
	changes, err := decode(data)
	t.hear(changes, err != nil)
	return true, err
}

// Doubt makes all topics be listed again: changes may have been lost.
func (r *Room) Doubt() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range r.topics {
		t.hear(nil, true)
	}
}

// A topic is a topic that somebody watches. One goroutine serves all its Watchers.
type topic struct {
	name   string
	config *Config
	cancel context.CancelFunc
	wake   wake.Signal

	watchers int // guarded by Room.mu

	mu      sync.Mutex
	view    *view
	told    map[*Watcher]struct{}
	err     error // why the last list failed
	ended   bool
	doubted bool
	moved   time.Time // when the view's number last grew, or its hole began
}

// A Watcher is told of a topic.
type Watcher struct {
	room  *Room
	topic *topic
	wake  wake.Signal

	// Guarded by topic.mu.

	news news
}

// Watch begins to watch a topic. Close ends it.
func (r *Room) Watch(name string) (*Watcher, error) {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return nil, errs.Closed
	}
	t := r.topics[name]
	if t == nil {
		ctx, cancel := context.WithCancel(context.Background())
		t = &topic{name: name, config: &r.config, cancel: cancel, wake: wake.New(), view: newView(), told: make(map[*Watcher]struct{})}
		r.topics[name] = t
		r.wg.Go(func() { t.run(ctx) })
	}
	t.watchers++
	r.mu.Unlock()
	w := &Watcher{room: r, topic: t, wake: wake.New(), news: make(news)}
	t.mu.Lock()
	t.told[w] = struct{}{}
	for _, s := range t.view.there {
		w.news.note(s, false)
	}
	if t.view.listed || t.err != nil || t.ended {
		w.wake.Set()
	}
	t.mu.Unlock()
	return w, nil
}

// Close ends the watching.
func (w *Watcher) Close() {
	w.topic.mu.Lock()
	delete(w.topic.told, w)
	w.topic.mu.Unlock()
	w.room.mu.Lock()
	defer w.room.mu.Unlock()
	if w.topic.watchers--; w.topic.watchers == 0 {
		delete(w.room.topics, w.topic.name)
		w.topic.cancel()
	}
}

// Next waits until the topic has changed or was listed again, and returns who has come
// and who has left since the last call. That may be nobody, for instance if a session
// has left and come back. The first call returns the list, or the error if there is none.
// Only one goroutine may call it.
func (w *Watcher) Next(ctx context.Context) (came, left []Session, err error) {
	for {
		select {
		case <-w.wake:
		case <-ctx.Done():
			return nil, nil, context.Cause(ctx)
		}
		t := w.topic
		t.mu.Lock()
		ended, listed, failed := t.ended, t.view.listed, t.err
		var told news
		if listed {
			told, w.news = w.news, make(news)
		}
		t.mu.Unlock()
		switch {
		case ended:
			return nil, nil, errs.Closed
		case !listed && failed != nil:
			return nil, nil, failed
		case listed:
			for _, n := range told {
				if n.left {
					left = append(left, n.session)
				} else {
					came = append(came, n.session)
				}
			}
			return came, left, nil
		}
	}
}

// tell notes news for all Watchers. The caller holds t.mu.
func (t *topic) tell(s Session, left bool) {
	for w := range t.told {
		w.news.note(s, left)
		w.wake.Set()
	}
}

// hear takes changes, or notes that some may have been lost.
func (t *topic) hear(changes []Change, doubted bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	before, hole := t.view.number, t.view.hole()
	for _, c := range changes {
		t.view.change(c, t.tell)
	}
	if t.view.number != before || t.view.hole() && !hole {
		t.moved = time.Now()
	}
	t.doubted = t.doubted || doubted
	if doubted || t.view.hole() {
		t.wake.Set()
	}
}

// run lists the topic, again and again, until ctx is done.
func (t *topic) run(ctx context.Context) {
	t.config.Follow(t.name)
	defer t.config.Unfollow(t.name)
	defer t.end()
	timer := time.NewTimer(0)
	defer timer.Stop()
	var asked time.Time
	var pause time.Duration
	for {
		if wait := t.due(asked, pause); wait > 0 {
			timer.Reset(wait)
			select {
			case <-timer.C:
			case <-t.wake:
			case <-ctx.Done():
				return
			}
			continue
		}
		asked, pause = time.Now(), retryAfter
		if err := t.list(ctx); err == nil {
			pause = t.config.Every*9/10 + rand.N(t.config.Every/5+1) // not all nodes at once
		}
		if ctx.Err() != nil {
			return
		}
	}
}

// due returns how long it is until the next list.
func (t *topic) due(asked time.Time, pause time.Duration) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	due, soonest := asked.Add(pause), asked.Add(min(pause, retryAfter))
	if at := t.moved.Add(holePatience); t.view.hole() && at.Before(due) {
		due = at
	}
	if t.doubted || due.Before(soonest) { // a list that failed has not filled the hole
		due = soonest
	}
	return time.Until(due)
}

// list asks for the list once.
func (t *topic) list(ctx context.Context) error {
	t.mu.Lock()
	t.doubted = false
	t.view.ask()
	t.mu.Unlock()
	number, sessions, err := t.config.List(ctx, t.name)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.err = err
	if err == nil {
		t.doubted = !t.view.list(number, sessions, t.tell) || t.doubted
		t.moved = time.Now()
	}
	if err == nil || !t.view.listed {
		for w := range t.told {
			w.wake.Set()
		}
	}
	return err
}

// end tells all Watchers that there is no more.
func (t *topic) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended = true
	for w := range t.told {
		w.wake.Set()
	}
}
