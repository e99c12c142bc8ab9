package herald

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/heraldgo/herald/internal/loglimit"
	"github.com/heraldgo/herald/internal/origin"
	"github.com/heraldgo/herald/internal/rate"
)

// A door knows whose pages may connect, and bounds what handshakes may take of
// a node: how many a second, all together and of each address and user, and how
// many at once.
type door struct {
	origins []origin.Pattern
	seed    maphash.Seed // for the keys
	addrs   *rate.Keyed
	users   *rate.Keyed

	foreign  loglimit.Minute // pages of origins that may not connect
	stripped loglimit.Minute // handshakes whose Upgrade a proxy has taken away

	mu        sync.Mutex
	rate      rate.Bucket
	inside    int            // handshakes under way
	insideOf  map[uint64]int // those of each address, by its key
	suspected bool           // a proxy has been logged
}

// userBurst is the time whose handshakes a user may make at once: all devices come back
// together after their network was gone.
const userBurst = 10 * time.Second

func newDoor(c *Config) *door {
	d := &door{
		seed:     maphash.MakeSeed(),
		addrs:    rate.NewKeyed(c.HandshakeRatePerAddr, time.Second),
		users:    rate.NewKeyed(c.HandshakeRatePerUser, userBurst),
		insideOf: make(map[uint64]int),
	}
	for _, text := range c.OriginPatterns {
		p, _ := origin.Parse(text) // New has refused what it refuses
		d.origins = append(d.origins, p)
	}
	return d
}

// key returns the key of an address, with a port or without one, as headers
// have it: elements of X-Forwarded-For come with spaces, and some proxies put
// IPv6 addresses in brackets without a port. Anything that is no IP address is a
// name, and stays as it is.
func (d *door) key(addr string) uint64 {
	addr = strings.TrimSpace(addr)
	bare := addr
	if strings.HasPrefix(bare, "[") && strings.HasSuffix(bare, "]") {
		bare = bare[1 : len(bare)-1]
	}
	ip, err := netip.ParseAddr(bare)
	if err != nil {
		var withPort netip.AddrPort
		if withPort, err = netip.ParseAddrPort(addr); err != nil {
			return maphash.String(d.seed, addr)
		}
		ip = withPort.Addr()
	}
	if ip = ip.Unmap(); ip.Is6() { // a customer has a /64 at least
		b := ip.As16()
		return maphash.Bytes(d.seed, b[:8])
	}
	b := ip.As4()
	return maphash.Bytes(d.seed, b[:])
}

// knock takes a request's token from the bucket of its address, before
// anything else is done for it, and returns the address' key. Bad requests spend
// nothing else, so nobody can shut out others by them.
func (h *Hub) knock(r *http.Request) (addr uint64, err error) {
	client := ""
	if f := h.config.ClientAddr; f != nil && !h.guard(nil, "ClientAddr", func() { client = f(r) }) {
		return 0, &HTTPError{http.StatusInternalServerError, "internal error"}
	}
	if client == "" {
		client = r.RemoteAddr
	}
	addr = h.door.key(client)
	if !h.door.addrs.Allow(addr) {
		h.suspectProxy(r)
		h.stats.addrLimited.Add(1)
		return 0, &HTTPError{http.StatusTooManyRequests, "too many handshakes from this address"}
	}
	return addr, nil
}

// suspectProxy logs, once, that the refused address looks like a proxy's, behind which
// everybody shares one bucket.
func (h *Hub) suspectProxy(r *http.Request) {
	if h.config.ClientAddr != nil || r.Header.Get("X-Forwarded-For") == "" && r.Header.Get("Forwarded") == "" {
		return
	}
	h.door.mu.Lock()
	suspected := h.door.suspected
	h.door.suspected = true
	h.door.mu.Unlock()
	if !suspected {
		h.config.Logger.Warn("herald: handshakes are refused because too many come from one address, which seems to be a proxy's; set Config.ClientAddr",
			slog.String("remote", r.RemoteAddr), slog.Int("HandshakeRatePerAddr", h.config.HandshakeRatePerAddr))
	}
}

// tellRefused logs, once a minute, requests that a setting of the service or of a proxy
// may have refused, and what to do.
func (h *Hub) tellRefused(r *http.Request, status int) {
	const foreign = "herald: pages of an origin that may not connect were refused: name it in Config.OriginPatterns if it is yours; a proxy must pass on the Host (nginx passes the upstream's name unless it has proxy_set_header Host $http_host)"
	const stripped = "herald: handshakes were refused because their Upgrade is missing: a proxy must pass it on (nginx: proxy_http_version 1.1, proxy_set_header Upgrade $http_upgrade and Connection \"upgrade\")"
	message, told := foreign, &h.door.foreign
	switch {
	case status == http.StatusForbidden:
	case status == http.StatusUpgradeRequired && len(r.Header["Sec-Websocket-Key"]) > 0: // else it is no handshake
		message, told = stripped, &h.door.stripped
	default:
		return
	}
	if n, ok := told.Tell(); ok {
		h.config.Logger.Warn(message, slog.Int("refused", n), slog.Any("origin", r.Header["Origin"]),
			slog.String("host", r.Host), slog.String("remote", r.RemoteAddr))
	}
}

// begin counts in a handshake, if the node has room for it. If it
// returns nil, the caller calls door.end.
func (h *Hub) begin(addr uint64) error {
	if conns, _, _ := h.index.size(); h.config.MaxConns > 0 && conns >= h.config.MaxConns {
		h.stats.crowded.Add(1)
		return tooManyConns
	}
	d := h.door
	d.mu.Lock()
	defer d.mu.Unlock()
	// One address has at most half of all, however slow Authenticate is.
	limit := h.config.MaxHandshakes
	switch {
	case limit > 0 && d.insideOf[addr] >= (limit+1)/2:
		h.stats.addrLimited.Add(1)
		return tooManyOfAddr
	case limit > 0 && d.inside >= limit, !d.rate.Allow(h.config.HandshakeRate):
		h.stats.crowded.Add(1)
		return &HTTPError{http.StatusServiceUnavailable, "too many handshakes"}
	}
	d.inside++
	d.insideOf[addr]++
	return nil
}

var (
	tooManyConns  = &HTTPError{http.StatusServiceUnavailable, "too many connections"}
	tooManyOfAddr = &HTTPError{http.StatusServiceUnavailable, "too many handshakes from this address"}
)

func (d *door) end(addr uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.inside--
	if d.insideOf[addr]--; d.insideOf[addr] == 0 {
		delete(d.insideOf, addr)
	}
}

// handshakes returns how many are under way.
func (d *door) handshakes() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.inside
}

// allowUser takes a token from the user's bucket.
func (h *Hub) allowUser(user string) error {
	if h.door.users.Allow(maphash.String(h.door.seed, user)) {
		return nil
	}
	h.stats.userLimited.Add(1)
	return &HTTPError{http.StatusTooManyRequests, "too many handshakes of this user"}
}

// Each header of a handshake has a bound, because the library took up to a second for
// lists of a megabyte. The bytes leave room for a token that some services hide in
// Sec-WebSocket-Protocol.
const (
	maxHandshakeHeader = 8 << 10
	maxHandshakeList   = 100 // elements, and their parameters
)

var handshakeHeaders = [...]string{
	"Connection", "Upgrade", "Origin",
	"Sec-Websocket-Version", "Sec-Websocket-Key", "Sec-Websocket-Protocol", "Sec-Websocket-Extensions",
}

// checkRequest returns an error if the request is no handshake (RFC 6455 section 4.2), or
// comes from a page that may not connect. The library checks that too, but only at the
// upgrade, when Authenticate, the Bus and the Registry have been asked in vain. header is
// the response's.
func checkRequest(header http.Header, r *http.Request, origins []origin.Pattern) error {
	for _, name := range handshakeHeaders {
		if isLong(r.Header[name]) {
			return &HTTPError{http.StatusRequestHeaderFieldsTooLarge, name + " is too long"}
		}
	}
	switch {
	case !r.ProtoAtLeast(1, 1), !hasToken(r.Header["Connection"], "upgrade"), !hasToken(r.Header["Upgrade"], "websocket"):
		header.Set("Connection", "Upgrade")
		header.Set("Upgrade", "websocket")
		return &HTTPError{http.StatusUpgradeRequired, "a WebSocket upgrade is needed"}
	case r.Method != http.MethodGet:
		header.Set("Allow", http.MethodGet)
		return &HTTPError{http.StatusMethodNotAllowed, "the method must be GET"}
	case r.Header.Get("Sec-WebSocket-Version") != "13":
		header.Set("Sec-WebSocket-Version", "13")
		return &HTTPError{http.StatusBadRequest, "Sec-WebSocket-Version must be 13"}
	case !validKey(r.Header["Sec-Websocket-Key"]):
		return &HTTPError{http.StatusBadRequest, "Sec-WebSocket-Key must be 16 bytes in base64"}
	}
	// A client that is no browser sends no Origin.
	values := r.Header["Origin"]
	if len(values) > 1 || len(values) == 1 && values[0] != "" && !origin.Allowed(values[0], r.Host, r.TLS != nil, origins) {
		return fmt.Errorf("origin %q on host %q: %w", values, r.Host, &HTTPError{http.StatusForbidden, "this origin may not connect"})
	}
	return nil
}

func isLong(values []string) bool {
	size, list := 0, len(values)
	for _, v := range values {
		if size += len(v); size > maxHandshakeHeader {
			return true
		}
		list += strings.Count(v, ",") + strings.Count(v, ";")
	}
	return list > maxHandshakeList
}

// hasToken reports whether one of the lists has the token, in any case.
func hasToken(lists []string, token string) bool {
	for _, list := range lists {
		for t := range strings.SplitSeq(list, ",") {
			if strings.EqualFold(strings.TrimSpace(t), token) {
				return true
			}
		}
	}
	return false
}

func validKey(values []string) bool {
	if len(values) != 1 {
		return false
	}
	key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(values[0]))
	return err == nil && len(key) == 16
}

// notReady is the answer if the node is not fit, or could not do in time what
// a connection needs.
var notReady = &HTTPError{http.StatusServiceUnavailable, "not ready"}

var errPanic = errors.New("panic in a callback")

// logRefused logs why a connection was refused: the client is not told all of it, and a
// browser shows nothing. Most refusals are no fault of the service's, and matter only for
// debugging. An error that tells the client nothing may be one.
func (h *Hub) logRefused(level slog.Level, user, remote string, err error) {
	h.config.Logger.LogAttrs(context.Background(), level, "herald: connection refused",
		slog.String("user", user), slog.String("remote", remote), slog.Any("err", err))
}

// answer returns the response to a request that failed with err.
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

// reject answers a request that is refused before the upgrade. Under RejectAfterUpgrade
// it is upgraded only to be closed, so that a browser's script sees why. A 503 stays a
// 503: a proxy can then try the next node, and a script that resets its delays at each
// onopen goes on backing off.
func (h *Hub) reject(w http.ResponseWriter, r *http.Request, e *HTTPError) {
	if !h.config.RejectAfterUpgrade || e.Status == http.StatusServiceUnavailable || !canHijack(w) || !h.beginRefused() {
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
	// A browser that has offered subprotocols gets no close code unless one is agreed on.
	subprotocols := slices.Concat(h.config.Subprotocols, offered(r))
	if err := c.upgrade(w, r, subprotocols, func() *HTTPError { return nil }); err != nil { // the client has been answered
		h.endRefused()
		c.cancel(err)
		return
	}
	c.shut(e.closeError())
	h.wg.Add(1)
	h.wg.Go(func() {
		defer h.endRefused()
		c.read(nil)
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

// closeError returns what e becomes under RejectAfterUpgrade.
func (e *HTTPError) closeError() *CloseError {
	c := &CloseError{Code: StatusCode(4000 + e.Status), Reason: e.Message}
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

// refusal returns what the client is told of an error of Admit or OnConnect.
func (c *Conn) refusal(callback string, err error) *CloseError {
	c.hub.stats.denied.Add(1)
	err = fmt.Errorf("%s: %w", callback, err)
	var told *CloseError
	if errors.As(err, &told) && told.Code.check(told.Reason) == nil {
		c.hub.logRefused(slog.LevelDebug, c.identity.User, c.remote, err)
		return told
	}
	c.hub.logRefused(slog.LevelWarn, c.identity.User, c.remote, err)
	return &CloseError{Code: StatusPolicyViolation, Reason: "refused"}
}

// refusedFor returns what a client that was upgraded, but not admitted, is told. err is a
// refusal, or why the node could not do what the Conn needs.
func (c *Conn) refusedFor(err error) *CloseError {
	var told *CloseError
	if errors.As(err, &told) {
		return told
	}
	if err != errPanic {
		c.hub.stats.notReady.Add(1)
	}
	c.hub.logRefused(slog.LevelDebug, c.identity.User, c.remote, err)
	return &CloseError{Code: StatusTryAgainLater, Reason: "not ready"}
}
