// Package turn says who may read from a connection.
package turn

import "sync"

// A Turn says who may read. Only one reads at a time, and goes on where the last
// one has stopped: the connection's reader; keepalive, which reads ahead; or the poller, if
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
	over chan struct{} // closed at the end of the current reading ahead
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

// Is reports whether the turn is in this state.
func (t *Turn) Is(s State) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.is == s
}

// Pass gives the caller's turn to another.
func (t *Turn) Pass(to State) {
	t.mu.Lock()
	t.is = to
	t.mu.Unlock()
}

// Exchange gives the turn from one to another. It returns false if the first does not
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

// Reclaim gives the turn from Nobody back to the reader, and returns nil. If the turn
// is Ahead, the reader has it once the channel that Reclaim returns is closed.
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

// BeginAhead takes the turn if nobody has it, and reports whether it did.
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
