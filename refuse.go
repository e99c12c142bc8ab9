package herald

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strconv"
)

// notReady is the answer if the node is not fit, or could not do in time what
// a connection needs.
var notReady = &HTTPError{http.StatusServiceUnavailable, "not ready"}

// logRefused tells why a connection was refused: the client is not told all of
// it, and a browser shows none. Most are no fault of the service's, and debugging
// alone asks for them; an error that tells the client nothing may well be one.
func (h *Hub) logRefused(level slog.Level, user, remote string, err error) {
	h.config.Logger.LogAttrs(context.Background(), level, "herald: connection refused",
		slog.String("user", user), slog.String("remote", remote), slog.Any("err", err))
}

// answer is what a request is told of an error.
func answer(err error) *HTTPError {
	var e *HTTPError
	if errors.As(err, &e) && e.Status >= 400 && e.Status <= 599 {
		return e
	}
	return &HTTPError{http.StatusUnauthorized, "unauthorized"}
}

// maxRefused is how many sockets may be open that were upgraded only to be
// refused. They do not count for MaxConns, because a client that is not let in must
// not take a place. Beyond maxRefused a request gets a plain answer.
const maxRefused = 1_000

// reject answers a request that is refused before the upgrade. Under
// RejectAfterUpgrade it is upgraded only to be closed, so that a browser's script
// sees why.
func (h *Hub) reject(w http.ResponseWriter, r *http.Request, e *HTTPError) {
	if !h.config.RejectAfterUpgrade || !canHijack(w) || !h.beginRefused() {
		h.rejectPlain(w, e)
		return
	}
	c := h.newConn(r, Identity{})
	if c == nil {
		h.endRefused()
		h.rejectPlain(w, e)
		return
	}
	h.stats.rejected.Add(1)
	if err := c.upgrade(w, r, func() *HTTPError { return nil }); err != nil { // and answered
		h.endRefused()
		c.cancel(err)
		return
	}
	c.shut(e.closeError())
	h.wg.Go(func() {
		defer h.endRefused()
		c.read()
	})
}

func (h *Hub) beginRefused() bool {
	if h.refused.Add(1) > maxRefused {
		h.endRefused()
		return false
	}
	return true
}

func (h *Hub) endRefused() { h.refused.Add(-1) }

// closeError is what e is under RejectAfterUpgrade.
func (e *HTTPError) closeError() *CloseError {
	c := &CloseError{Code: StatusCode(4000 + e.Status), Reason: e.Message}
	if e.Status == http.StatusServiceUnavailable {
		c.Code = StatusTryAgainLater
	}
	if c.Code.check(c.Reason) != nil {
		c.Reason = ""
	}
	return c
}

func (h *Hub) rejectPlain(w http.ResponseWriter, e *HTTPError) {
	h.stats.rejected.Add(1)
	retryAfter(w.Header(), e.Status)
	http.Error(w, e.Message, e.Status)
}

// retryAfter asks a client that may come again to wait some seconds, not all
// the same. Its connection is not kept for that: many would fill the node that is
// full already, and a flood would come cheap.
func retryAfter(header http.Header, status int) {
	if status == http.StatusServiceUnavailable || status == http.StatusTooManyRequests {
		header.Set("Retry-After", strconv.Itoa(1+rand.IntN(5)))
		header.Set("Connection", "close")
	}
}

// refusal is what the client is told of an error of Admit's or OnConnect's.
func (c *Conn) refusal(callback string, err error) *CloseError {
	err = fmt.Errorf("%s: %w", callback, err)
	var told *CloseError
	if errors.As(err, &told) && told.Code.check(told.Reason) == nil {
		c.hub.logRefused(slog.LevelDebug, c.identity.User, c.remote, err)
		return told
	}
	c.hub.logRefused(slog.LevelWarn, c.identity.User, c.remote, err)
	return &CloseError{Code: StatusPolicyViolation, Reason: "refused"}
}

// refusedFor is what the client is told that has been upgraded and is not
// admitted. err is a refusal, or why the node could not do what the Conn needs.
func (c *Conn) refusedFor(err error) *CloseError {
	var told *CloseError
	if errors.As(err, &told) {
		return told
	}
	c.hub.logRefused(slog.LevelDebug, c.identity.User, c.remote, err)
	return &CloseError{Code: StatusTryAgainLater, Reason: "not ready"}
}
