package herald

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// An Identity is what Authenticate says of a request.
type Identity struct {
	User     string            // who it is; any bytes, not empty
	Device   string            // which device, for OnePerDevice and Sessions; may be empty
	Platform string            // "web", "ios", …, for Target.On, which knows a connection by nothing else; may be empty
	Groups   []string          // the groups the connection belongs to from the start
	Expires  time.Time         // when the connection is closed with StatusExpired; zero means never; a time in the past is refused with 401
	Meta     map[string]string // seen by Sessions on every node

	// Subprotocol is the subprotocol that the handshake is answered with, in place
	// of Config.Subprotocols' choice. It must be one of those that the request
	// offers in Sec-WebSocket-Protocol (RFC 6455 section 4.2.2); otherwise the
	// client gets 500, and it is logged. A browser's script cannot set headers, so
	// some scripts send their token as a subprotocol. A browser that has offered
	// subprotocols and is answered with none drops the connection. For ["bearer",
	// token] return "bearer"; for [token] return the token, which the response's
	// header then shows.
	Subprotocol string

	// Local is what your callbacks want to know of the connection, such as the
	// account that Authenticate has loaded. [Conn.Identity] returns it as it is. It
	// stays on the connection's node: the Registry, Sessions and other nodes
	// never see it. What it holds stays in memory as long as the connection does;
	// MaxIdentitySize does not count it. It must not keep the request.
	Local any
}

// Anonymous is an Authenticate that lets everyone in. Each connection is a user of
// its own with a random name.
func Anonymous(*http.Request) (Identity, error) {
	return Identity{User: "anonymous-" + rand.Text()}, nil
}

// maxGroupName is the most bytes of a group's name. Each node with a member keeps it.
const maxGroupName = 1 << 10

// checkIdentity returns an error that names the rule that the Identity breaks, or nil.
func (c *Config) checkIdentity(id Identity) error {
	size := len(id.User) + len(id.Device) + len(id.Platform)
	for key, value := range id.Meta {
		size += len(key) + len(value)
	}
	if c.MaxIdentitySize > 0 && size > c.MaxIdentitySize {
		return fmt.Errorf("User (%d), Device (%d), Platform (%d) and Meta (%d) have %d bytes: must be at most MaxIdentitySize (%d)",
			len(id.User), len(id.Device), len(id.Platform), size-len(id.User)-len(id.Device)-len(id.Platform), size, c.MaxIdentitySize)
	}
	if err := checkGroups(id.Groups); err != nil {
		return err
	}
	if c.MaxGroups < 1 || len(id.Groups) <= c.MaxGroups {
		return nil
	}
	distinct := make(map[string]bool)
	for _, g := range id.Groups {
		distinct[g] = true
	}
	if len(distinct) > c.MaxGroups {
		return fmt.Errorf("Groups has %d: must be at most MaxGroups (%d)", len(distinct), c.MaxGroups)
	}
	return nil
}

// checkSubprotocol returns an error if the client may not be answered with the
// subprotocol. The error does not show it, because it may be a secret.
func checkSubprotocol(r *http.Request, subprotocol string) error {
	if subprotocol == "" || validToken(subprotocol) && slices.Contains(offered(r), subprotocol) {
		return nil
	}
	return errors.New("Subprotocol: must be a token of RFC 9110 that the request offers in Sec-WebSocket-Protocol")
}

func checkGroups(groups []string) error {
	for _, g := range groups {
		if g == "" {
			return fmt.Errorf("%w: group: name must not be empty", ErrInvalid)
		}
		if len(g) > maxGroupName {
			return fmt.Errorf("%w: group: name of %d bytes: must be at most %d", ErrInvalid, len(g), maxGroupName)
		}
	}
	return nil
}

// offered returns the subprotocols that a request offers, in its order.
func offered(r *http.Request) (subprotocols []string) {
	for _, list := range r.Header["Sec-Websocket-Protocol"] {
		for p := range strings.SplitSeq(list, ",") {
			if p = strings.TrimSpace(p); p != "" {
				subprotocols = append(subprotocols, p)
			}
		}
	}
	return subprotocols
}

// clone returns a copy of the Identity that shares nothing with id: its
// strings may be parts of the request, which would stay in memory as a whole.
// In the copy each group is there once.
func (id Identity) clone() Identity {
	id.User = strings.Clone(id.User)
	id.Device = strings.Clone(id.Device)
	id.Platform = strings.Clone(id.Platform)
	id.Subprotocol = strings.Clone(id.Subprotocol)
	id.Groups = slices.Compact(slices.Sorted(slices.Values(id.Groups)))
	for i, g := range id.Groups {
		id.Groups[i] = strings.Clone(g)
	}
	if meta := id.Meta; meta != nil {
		id.Meta = make(map[string]string, len(meta))
		for key, value := range meta {
			id.Meta[strings.Clone(key)] = strings.Clone(value)
		}
	}
	return id
}

// An AdmitFunc decides about a new connection, s. It gets the user's older
// ones, on all nodes.
//
//  1. older has the older connections, oldest first, but no more than 1,000;
//     total is how many there are.
//  2. The callee owns older and the Meta of each Session: it may change, keep
//     or return them.
//  3. Those that it returns in evict are closed with StatusReplaced. If they are
//     all of older, and there are more, it is asked again about the rest.
//  4. An error refuses the new connection, with the code of a [CloseError] in
//     its chain or 1008. Then evict does not count.
//  5. It is called for several connections at the same time.
//
// [AdmitAll] combines several.
type AdmitFunc func(ctx context.Context, s Session, older []Session, total int) (evict []Session, err error)

// maxOlder is the most older Sessions that an AdmitFunc gets at once.
const maxOlder = 1_000

// MaxPerUser lets a user have n connections, on all nodes together: the
// newest stay, older ones are closed with StatusReplaced. An n below 1 is 1.
func MaxPerUser(n int) AdmitFunc {
	return func(_ context.Context, _ Session, older []Session, total int) ([]Session, error) {
		return older[:max(0, min(len(older), total+1-max(n, 1)))], nil
	}
}

// AdmitAll calls one AdmitFunc after the other. Each gets the older connections
// that those before it did not evict. All that any of them evicts are evicted;
// the first error refuses the new connection. AdmitAll() admits everybody.
//
//	Admit: herald.AdmitAll(herald.OnePerDevice(), herald.MaxPerUser(5))
func AdmitAll(all ...AdmitFunc) AdmitFunc {
	return func(ctx context.Context, s Session, older []Session, total int) ([]Session, error) {
		var evict []Session
		for _, admit := range all {
			named, err := admit(ctx, s, slices.Clone(older), total)
			if err != nil {
				return nil, err
			}
			evict = append(evict, named...)
			gone := make(map[string]bool, len(named))
			for _, e := range named {
				gone[e.ID] = true
			}
			n := len(older)
			older = slices.DeleteFunc(older, func(o Session) bool { return gone[o.ID] })
			total -= n - len(older)
		}
		return evict, nil
	}
}

// OnePerPlatform lets a user have one connection on each platform, on all
// nodes together: the newest.
func OnePerPlatform() AdmitFunc {
	return func(_ context.Context, s Session, older []Session, _ int) ([]Session, error) {
		return slices.DeleteFunc(older, func(o Session) bool { return o.Platform != s.Platform }), nil
	}
}

// OnePerDevice lets a user have one connection on each device, on all nodes
// together: the newest. Connections without a device are left alone.
func OnePerDevice() AdmitFunc {
	return func(_ context.Context, s Session, older []Session, _ int) ([]Session, error) {
		return slices.DeleteFunc(older, func(o Session) bool { return s.Device == "" || o.Device != s.Device }), nil
	}
}

// validToken reports whether s is a token. The name of a subprotocol must be one (RFC
// 6455, section 4.1).
func validToken(s string) bool {
	for _, c := range []byte(s) {
		if c <= ' ' || c > '~' || strings.IndexByte("\"(),/:;<=>?@[\\]{}", c) >= 0 {
			return false
		}
	}
	return s != ""
}
