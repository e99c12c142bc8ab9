// Package turn says who may read from a connection.
package turn

import "sync"

// A Turn says who may read. It is at most one at any time, who goes on where the last
// has stopped: the connection's reader; keepalive, which reads ahead; or the poller, if
// the connection is parked. The zero Turn is the reader's.
//
//	       OnMessage begins           keepalive begins
//	reader ────────────────▶ nobody ──────────────────▶ ahead
//	 ▲  ▲                     │  ▲                      │  │
//	 │  └──OnMessage returns──┘  └──────it has read─────┘  │ OnMessage returns
//	 │                                                     ▼
//	 └────────────────────────it has read────────────── awaited
//
//	       nothing has come for a while           something has come
//	reader ─────────────────────────────▶ parked ───────────────────▶ polled
//	 ▲  ▲                                 │    ▲                      │    │
//	 │  └───────it is dead, or refused────┘    └─only control frames──┘    │
//	 └───────────────────────────any other ────────────────────────────────┘
type Turn struct {
	mu   sync.Mutex
	over chan struct{} // closed at the end of the reading ahead that is under way
	is   State
}

// A State says whose turn it is.
type State uint8

const (
	Reader State = iota
	Nobody
	Ahead
	Awaited // Ahead, and the reader waits for the end
	Parked  // the poller is told when something has come
	Polled  // the poller's goroutine reads
)

// Is says whether the turn is in that state.
func (t *Turn) Is(s State) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.is == s
}

// Pass gives the turn, which is the caller's, to another.
func (t *Turn) Pass(to State) {
	t.mu.Lock()
	t.is = to
	t.mu.Unlock()
}

// Exchange gives the turn from one to another, and answers false if the first does not
// have it.
func (t *Turn) Exchange(from, to State) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.is != from {
		return false
	}
	t.is = to
	return true
}

// Reclaim gives the turn from Nobody back to the reader, and returns nil. If it is
// Ahead's, the reader has it once the channel is closed.
func (t *Turn) Reclaim() (over chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.is == Ahead {
		t.is = Awaited
		return t.over
	}
	t.is = Reader
	return nil
}

// BeginAhead takes the turn, if it is nobody's.
func (t *Turn) BeginAhead() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.is != Nobody {
		return false
	}
	t.is, t.over = Ahead, make(chan struct{})
	return true
}

// EndAhead gives the turn back.
func (t *Turn) EndAhead() {
	t.mu.Lock()
	if t.is == Awaited {
		t.is = Reader
	} else {
		t.is = Nobody
	}
	over := t.over
	t.mu.Unlock()
	close(over)
}
