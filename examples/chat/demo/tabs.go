package demo

import (
	"errors"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
)

var errUnknownTab = errors.New("there is no such tab at this front door")

// tabs are the pages whose sockets go through the front door, by the id that each has
// made up. The network of one can be cut, as if it were in a tunnel: what is on its
// sockets is dropped both ways, neither end is told, and new sockets do not come
// through. When the network is restored, a socket that was cut is reset, as if its
// client had got another address meanwhile.
type tabs struct {
	mu   sync.Mutex
	byID map[string]*tab
}

// A tab is there while it has sockets, or is cut.
type tab struct {
	lines    map[*line]struct{}
	restored chan struct{} // closed when it is; nil unless the tab is cut
}

// enter notes that a socket of the tab comes in on l. If the tab is cut, the socket has
// to wait until restored is closed, and then to go.
func (t *tabs) enter(id string, l *line) (restored <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byID == nil {
		t.byID = make(map[string]*tab)
	}
	one := t.byID[id]
	if one == nil {
		one = &tab{lines: make(map[*line]struct{})}
		t.byID[id] = one
	}
	one.lines[l] = struct{}{}
	return one.restored
}

// leave notes that the socket has ended here. If it was cut, its client must not know
// that before the network is restored.
func (t *tabs) leave(id string, l *line) {
	t.mu.Lock()
	defer t.mu.Unlock()
	one := t.byID[id]
	if one == nil || l.dead.Load() {
		return
	}
	delete(one.lines, l)
	if len(one.lines) == 0 && one.restored == nil {
		delete(t.byID, id)
	}
}

// cut cuts the network of a tab that has a socket.
func (t *tabs) cut(id string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	one := t.byID[id]
	if one == nil {
		return errUnknownTab
	}
	if one.restored == nil {
		one.restored = make(chan struct{})
	}
	for l := range one.lines {
		l.dead.Store(true)
	}
	return nil
}

// restore restores it, and resets the sockets that were cut.
func (t *tabs) restore(id string) error {
	t.mu.Lock()
	one := t.byID[id]
	if one == nil || one.restored == nil {
		t.mu.Unlock()
		return errUnknownTab
	}
	close(one.restored)
	delete(t.byID, id) // those that wait for it are about to go, too
	t.mu.Unlock()
	for l := range one.lines {
		if l.dead.Load() {
			l.reset()
		}
	}
	return nil
}

// restoreAll restores the network of all tabs.
func (t *tabs) restoreAll() {
	t.mu.Lock()
	ids := slices.Collect(maps.Keys(t.byID))
	t.mu.Unlock()
	for _, id := range ids {
		t.restore(id) // an error only says that it is not cut
	}
}

// through passes a tab's sockets on to next while its network is there.
func (t *tabs) through(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := r.URL.Query().Get("tab")
		if id == "" {
			next.ServeHTTP(w, r)
			return
		}
		l := r.Context().Value(clientKey{}).(*line)
		restored := t.enter(id, l)
		defer t.leave(id, l)
		if restored != nil {
			select {
			case <-restored:
			case <-r.Context().Done():
			}
			panic(http.ErrAbortHandler) // ends the connection without a word
		}
		next.ServeHTTP(w, r)
	})
}

// A line is a client's connection to the front door. Once it is dead, whatever is
// sent on it either way is lost.
type line struct {
	net.Conn
	dead atomic.Bool
}

func (l *line) Read(p []byte) (int, error) {
	for {
		n, err := l.Conn.Read(p)
		if err != nil || !l.dead.Load() {
			return n, err
		}
	}
}

func (l *line) Write(p []byte) (int, error) {
	if l.dead.Load() {
		return len(p), nil
	}
	return l.Conn.Write(p)
}

func (l *line) Close() error {
	if l.dead.Load() {
		return nil // reset does it
	}
	return l.Conn.Close()
}

func (l *line) reset() {
	l.Conn.(*net.TCPConn).SetLinger(0)
	l.Conn.Close()
}

// A lineListener makes lines of what it accepts.
type lineListener struct{ net.Listener }

func (l lineListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &line{Conn: c}, nil
}
