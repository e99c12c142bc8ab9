package herald

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/coder/websocket"

	"github.com/heraldgo/herald/internal/deadline"
)

// farFuture is the deadline if there is to be none.
const farFuture = 100 * 365 * 24 * time.Hour

// enter counts a handshake in, unless Shutdown no longer waits for any. While the Hub
// drains, handshakes are counted in too, and then refused.
func (h *Hub) enter() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended {
		return false
	}
	h.handshakes.Add(1)
	h.wg.Add(1) // so that its Conn never counts up from 0 while Shutdown waits
	return true
}

// screen refuses requests that must not cost more than a look at them, and returns the
// key of the address.
func (h *Hub) screen(w http.ResponseWriter, r *http.Request) (addr uint64, err error) {
	if addr, err = h.knock(r); err != nil {
		return 0, err
	}
	if err := checkRequest(w.Header(), r, h.door.origins); err != nil {
		if answer(err).Status == http.StatusForbidden {
			h.stats.forbidden.Add(1)
		} else {
			h.stats.badRequests.Add(1)
		}
		h.tellRefused(r, answer(err).Status)
		return 0, err
	}
	return addr, nil
}

// countNotReady counts a refusal because the node was not ready.
func (h *Hub) countNotReady(err error) {
	if errors.Is(err, notReady) || errors.Is(err, ErrClosed) {
		h.stats.notReady.Add(1)
	}
}

// identify asks Authenticate, and checks its Identity.
func (h *Hub) identify(r *http.Request) (id Identity, err error) {
	if !h.guard(nil, "Authenticate", func() { id, err = h.config.Authenticate(r) }) {
		return id, &HTTPError{http.StatusInternalServerError, "internal error"}
	}
	switch {
	case err != nil:
		err = fmt.Errorf("authenticate: %w", err)
	case !id.Expires.IsZero() && !id.Expires.After(time.Now()):
		err = &HTTPError{http.StatusUnauthorized, "expired"}
	case id.User == "":
		err = &HTTPError{http.StatusUnauthorized, "unauthorized"}
	}
	if err != nil {
		h.stats.unauthorized.Add(1)
		return id, err
	}
	if err := cmp.Or(h.config.checkIdentity(id), checkSubprotocol(r, id.Subprotocol)); err != nil {
		h.stats.badIdentities.Add(1)
		h.config.Logger.Error("herald: Authenticate returned an Identity that breaks a rule", slog.Any("err", err))
		return id, &HTTPError{http.StatusInternalServerError, "internal error"}
	}
	return id, h.allowUser(id.User)
}

// fit returns an error if the node cannot take a connection.
func (h *Hub) fit() error {
	if err := h.Health(); err != nil {
		return fmt.Errorf("%w: %w", notReady, err)
	}
	return nil
}

// ready returns an error if the node cannot take a connection, or w cannot be upgraded.
func (h *Hub) ready(w http.ResponseWriter) error {
	if err := h.fit(); err != nil {
		return err
	}
	if !canHijack(w) {
		h.logHidden(w)
		return &HTTPError{http.StatusInternalServerError, "cannot upgrade here: the server's log says why"}
	}
	return nil
}

// logHidden names the writer that stands between w and the connection.
func (h *Hub) logHidden(w http.ResponseWriter) {
	for {
		u, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			break
		}
		w = u.Unwrap()
	}
	h.config.Logger.Error("herald: cannot upgrade: a middleware (http.TimeoutHandler?) hides http.Hijacker; mount the Hub outside of it, or give its http.ResponseWriter an Unwrap method",
		slog.String("writer", fmt.Sprintf("%T", w)))
}

// connect takes the request from its identity to a living Conn. If it
// returns nil, the response has been given.
func (h *Hub) connect(w http.ResponseWriter, r *http.Request, id Identity, ends *deadline.Deadline) error {
	c := h.newConn(r, id)
	if c == nil {
		return &HTTPError{http.StatusInternalServerError, "internal error"}
	}
	if h.keeping != nil {
		var err error
		if c.queue.log, err = h.keeping.newConnLog(c, r); err != nil {
			h.stats.badRequests.Add(1)
			c.cancel(err)
			return err
		}
	}
	// A child of c.ctx would leave a map and a channel in it for the life of the Conn.
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(c.ctx))
	defer cancel(nil)
	ctx, release := ends.Bound(ctx)
	defer release()
	c.handshake.Store(&cancel)
	defer c.handshake.Store(nil)

	topics := append(groupTopics(c.identity.Groups), topicEveryone, userTopic(c.identity.User))
	followed := h.follower.Follow(topics...)
	if !h.index.add(c, h.config.MaxConns, h.config.MaxConnsPerUser) {
		h.follower.Unfollow(topics...)
		c.cancel(ErrLimit)
		if conns, _, _ := h.index.size(); h.config.MaxConns > 0 && conns >= h.config.MaxConns {
			h.stats.crowded.Add(1)
			return tooManyConns
		}
		h.stats.userLimited.Add(1)
		return &HTTPError{http.StatusTooManyRequests, "too many connections of this user"}
	}
	h.joinFirst(c)
	var err error
	if c.queue.log != nil {
		err = c.queue.log.begin(ctx)
	}
	if err == nil {
		err = followed.Wait(ctx)
	}
	if err != nil {
		c.kill(err)
		return fmt.Errorf("%w: %w", notReady, err)
	}
	var added Added
	register := func() *HTTPError {
		added, err = h.register(ends.Context(), c)
		// If it was evicted meanwhile, the client is to see the code that says so.
		if err == nil || c.ctx.Err() != nil {
			return nil
		}
		return notReady
	}
	subprotocols := h.config.Subprotocols
	if id.Subprotocol != "" {
		subprotocols = []string{id.Subprotocol}
	}
	if failed := c.upgrade(w, r, subprotocols, register); failed != nil { // the client has been answered
		h.countNotReady(failed)
		h.stats.rejected.Add(1)
		h.logRefused(slog.LevelDebug, id.User, r.RemoteAddr, errors.Join(failed, err))
		c.kill(failed)
		return nil
	}
	if err == nil {
		err = h.admit(ctx, c, added)
	}
	if err != nil {
		refusal := c.refusedFor(err)
		h.stats.rejected.Add(1)
		c.shut(refusal)
	}
	c.begin()
	return nil
}

// register has the Registry add the Conn, waits for that until ctx is done, and calls
// OnOnline if the user has come online.
func (h *Hub) register(ctx context.Context, c *Conn) (Added, error) {
	done, ok := h.presence.add(c)
	if !ok {
		return Added{}, ErrClosed
	}
	tell := func(r presenceResult) {
		if online := h.presence.online; online != nil && r.added.Online {
			online(c.identity.User)
		}
	}
	select {
	case r := <-done:
		tell(r)
		return r.added, r.err
	case <-ctx.Done():
		h.wg.Go(func() { tell(<-done) })
		return Added{}, context.Cause(ctx)
	}
}

// joinFirst makes a new Conn, whose topics are followed, a member of its Identity's
// groups. The Conn may have been closed by now, or have joined some of them.
func (h *Hub) joinFirst(c *Conn) {
	joined, _ := h.index.joinGroups(c, c.identity.Groups, 0)
	h.follower.Unfollow(without(groupTopics(c.identity.Groups), joined)...)
}

// newConn returns a Conn without a connection, or nil if ConnContext
// panics or returns nil.
func (h *Hub) newConn(r *http.Request, id Identity) *Conn {
	c := &Conn{hub: h, counter: h.counter.Add(1), identity: id.clone(), remote: strings.Clone(r.RemoteAddr), deflates: h.extensions(r) != ""}
	if !h.guard(nil, "ConnContext", func() { c.ctx, c.cancel = context.WithCancelCause(context.WithoutCancel(h.config.ConnContext(r))) }) {
		return nil
	}
	c.socket.c = c
	c.queue.forget()
	c.SetExpiry(id.Expires)
	return c
}

// upgrade makes the request's connection the Conn's, if the request is valid and ready
// returns nil. It agrees on the first of the subprotocols that the request offers. The
// library does the handshake and nothing else: it does not know of compression.
func (c *Conn) upgrade(w http.ResponseWriter, r *http.Request, subprotocols []string, ready func() *HTTPError) error {
	uw := &upgradeWriter{ResponseWriter: w, c: c, ready: ready, extensions: c.hub.extensions(r)}
	_, err := websocket.Accept(uw, r, &websocket.AcceptOptions{
		InsecureSkipVerify: true, // checkRequest has verified the Origin
		Subprotocols:       subprotocols,
		CompressionMode:    websocket.CompressionDisabled,
	})
	if !errors.Is(err, errTaken) {
		if errors.Is(err, http.ErrNotSupported) { // the ResponseWriter only looked like a Hijacker
			c.hub.logHidden(w)
		}
		if c.socket.conn != nil {
			c.socket.conn.Close()
		}
		return err
	}
	c.socket.in.MaxMessage, c.socket.in.Deflate = max(c.hub.config.MaxMessageSize, 0), c.deflates
	c.attach()
	return nil
}

// admit asks Admit and OnConnect, and lets the Conn's messages flow.
func (h *Hub) admit(ctx context.Context, c *Conn, added Added) (err error) {
	if c.ctx.Err() != nil {
		return ErrClosed
	}
	if h.config.Admit != nil {
		if err := h.decide(ctx, c, added); err != nil {
			return err
		}
	}
	if h.config.OnConnect != nil {
		if !h.guard(c, "OnConnect", func() { err = h.config.OnConnect(ctx, c) }) {
			return errPanic
		}
		if err != nil {
			return c.refusal("OnConnect", err)
		}
	}
	if l := c.queue.log; l != nil && l.session != nil {
		if err := l.session.Start(ctx); err != nil { // OnConnect was called, so OnDisconnect is due
			c.shut(&CloseError{Code: StatusTryAgainLater, Reason: "not ready"}) // unless it is closing
		}
	}
	c.accept()
	h.stats.accepted.Add(1)
	return nil
}

// decide asks Admit, and evicts the sessions that it names. It asks again if Admit has
// named all that it was given, and there are more.
func (h *Hub) decide(ctx context.Context, c *Conn, added Added) error {
	for last := ""; ; {
		older := added.Older
		n := len(older)
		var evict []Session
		var err error
		if !h.guard(c, "Admit", func() { evict, err = h.config.Admit(ctx, c.Session(), older, added.OlderTotal) }) {
			return errPanic
		}
		if err != nil {
			return c.refusal("Admit", err)
		}
		if len(evict) == 0 {
			return nil
		}
		ids := make([]string, len(evict))
		for i, s := range evict {
			ids[i] = s.ID
		}
		// If a session is named again, its node has not answered.
		if err := h.evict(ctx, Connection(ids...)); err != nil || len(evict) < n || added.OlderTotal <= n || ids[0] == last {
			return err
		}
		last = ids[0]
		if added, err = h.presence.older(ctx, c); err != nil {
			return err
		}
	}
}

// evict disconnects the sessions that Admit named. If a node does not answer, perhaps
// because it has died, the new Conn does not wait until the node's lease has run out: a
// goroutine goes on evicting until the node has answered or is gone.
func (h *Hub) evict(ctx context.Context, t Target) error {
	try := func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, evictTimeout)
		defer cancel()
		return h.Disconnect(ctx, t, StatusReplaced, "replaced by a newer connection")
	}
	err := try(ctx)
	var partial *PartialError
	if !errors.As(err, &partial) {
		return err
	}
	h.wg.Go(func() {
		for err != nil {
			select {
			case <-time.After(evictTimeout):
				err = try(context.Background())
			case <-h.drained:
				return
			}
		}
	})
	return nil
}

// evictTimeout is how long a new Conn waits for the end of the Conns that it evicts.
const evictTimeout = time.Second

// canHijack reports whether Hijack will find a connection, without trying.
func canHijack(w http.ResponseWriter) bool {
	for {
		switch t := w.(type) {
		case http.Hijacker:
			return true
		case interface{ Unwrap() http.ResponseWriter }:
			w = t.Unwrap()
		default:
			return false
		}
	}
}
