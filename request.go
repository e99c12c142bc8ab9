package herald

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
)

// A handshake's headers have a bound each, for lists of a megabyte took the
// library up to a second. The bytes leave room for a token that some services
// hide in Sec-WebSocket-Protocol.
const (
	maxHandshakeHeader = 8 << 10
	maxHandshakeList   = 100 // elements, and their parameters
)

var handshakeHeaders = [...]string{
	"Connection", "Upgrade", "Origin",
	"Sec-Websocket-Version", "Sec-Websocket-Key", "Sec-Websocket-Protocol", "Sec-Websocket-Extensions",
}

// checkRequest says whether the request is a handshake (RFC 6455 section 4.2)
// of a page that may connect. The library says that too, but only at the upgrade,
// and then Authenticate, the Bus and the Registry have been asked for nothing. The
// header is the answer's.
func checkRequest(header http.Header, r *http.Request, origins []string) error {
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
	if values := r.Header["Origin"]; !validOrigin(r, values, origins) {
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

// hasToken says whether one of the lists has the token, in any case.
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

// validOrigin says whether a page of the Origin may connect: see
// Config.OriginPatterns. What is no browser sends none.
func validOrigin(r *http.Request, values, patterns []string) bool {
	if len(values) == 0 || len(values) == 1 && values[0] == "" {
		return true
	}
	origin, err := url.Parse(values[0])
	if err != nil || len(values) > 1 {
		return false
	}
	// Without TLS here a proxy may have ended it, so that the page's scheme is
	// either.
	if strings.EqualFold(origin.Host, r.Host) && (origin.Scheme == "https" || origin.Scheme == "http" && r.TLS == nil) {
		return true
	}
	host := strings.ToLower(origin.Host)
	return slices.ContainsFunc(patterns, func(p string) bool {
		target := host
		if strings.Contains(p, "://") {
			target = origin.Scheme + "://" + host
		}
		ok, _ := path.Match(strings.ToLower(p), target) // New has checked the patterns
		return ok
	})
}
