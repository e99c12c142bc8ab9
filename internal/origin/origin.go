// Package origin says which pages may connect: those of the request's own
// host, and those whose Origin (RFC 6454) a pattern matches.
package origin

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"path"
	"strconv"
	"strings"
)

// null is the Origin of a page that has none: a sandboxed frame, often a file
// (RFC 6454 section 6.1).
const null = "null"

// defaultPorts are the ports that an Origin leaves out (RFC 6454 section 6.2).
var defaultPorts = map[string]string{"http": "80", "https": "443"}

// A Pattern matches Origins.
type Pattern struct {
	glob   string // of path.Match, in lower case
	scheme bool   // glob begins with a scheme; otherwise it matches any
}

// Parse makes a Pattern of text: a host or scheme://host, each with or without a
// port, as a pattern of path.Match; or scheme:// alone, as the Origins of apps; or
// null. The error is the rule that text breaks: such a text could never match.
func Parse(text string) (Pattern, error) {
	text = strings.ToLower(text)
	if text == null {
		return Pattern{glob: null}, nil
	}
	scheme, host, hasScheme := strings.Cut(text, "://")
	if !hasScheme {
		scheme, host = "", text
	}
	if err := checkScheme(scheme); err != nil {
		return Pattern{}, err
	}
	switch {
	case hasScheme && scheme == "":
		return Pattern{}, errors.New("must have a scheme before ://")
	case host != "":
	case !hasScheme || defaultPorts[scheme] != "" || isGlob(scheme):
		return Pattern{}, errors.New("must name a host")
	default:
		return Pattern{glob: text, scheme: true}, nil // such as file://
	}
	host, err := parseHost(host)
	if err != nil {
		return Pattern{}, err
	}
	p := Pattern{glob: host, scheme: hasScheme}
	if hasScheme {
		p.glob = scheme + "://" + host
	}
	if _, err := path.Match(p.glob, ""); err != nil {
		return Pattern{}, errors.New("must be a pattern of path.Match")
	}
	return p, nil
}

const (
	letters = "abcdefghijklmnopqrstuvwxyz0123456789"
	glob    = `*?[]^\`
)

func isGlob(s string) bool { return strings.ContainsAny(s, glob) }

// strange returns the first character of s that is not among the allowed, or "".
func strange(s, allowed string) string {
	for _, r := range s {
		if !strings.ContainsRune(allowed, r) {
			return string(r)
		}
	}
	return ""
}

func checkScheme(scheme string) error {
	if c := strange(scheme, letters+"+-."+glob); c != "" {
		return fmt.Errorf("must have no %q in its scheme", c)
	}
	if scheme == "ws" || scheme == "wss" {
		return errors.New("must have the page's scheme, http or https, and not the WebSocket's")
	}
	return nil
}

// parseHost returns the pattern for a host, with its port if it has one.
func parseHost(host string) (string, error) {
	if strings.Contains(host, "/") {
		return "", errors.New("must have no path and no slash at its end: an Origin has none")
	}
	if c := strange(host, letters+".-_:"+glob); c != "" {
		return "", fmt.Errorf("must have no %q in its host: an Origin has ASCII names (xn--…) alone", c)
	}
	name, port := split(host)
	if name == "" {
		return "", errors.New("must name a host")
	}
	if address, ok := parseIPv6(name); ok {
		name = `\[` + address + `\]` // no class of characters
	} else if strings.Contains(name, ":") {
		return "", errors.New("must have an IPv6 address whole and in brackets")
	}
	switch {
	case strings.HasSuffix(host, ":"):
		return "", errors.New("must have no colon without a port")
	case port == "":
		return name, nil
	}
	if n, err := strconv.ParseUint(port, 10, 16); !isGlob(port) && (err != nil || n == 0 || port[0] == '0') {
		return "", errors.New("must have a port from 1 to 65535")
	}
	return name + ":" + port, nil
}

// parseIPv6 returns the address in brackets as browsers write it. The brackets
// may be escaped.
func parseIPv6(name string) (address string, ok bool) {
	name = strings.NewReplacer(`\[`, "[", `\]`, "]").Replace(name)
	inner, opened := strings.CutPrefix(name, "[")
	inner, closed := strings.CutSuffix(inner, "]")
	ip, err := netip.ParseAddr(inner)
	return ip.String(), opened && closed && err == nil && ip.Is6() && !ip.Is4In6()
}

// split returns a host's name and port. A colon in brackets belongs to an address, or
// to a character class of a pattern.
func split(host string) (name, port string) {
	colon, bracket := -1, false
	for i, r := range host {
		switch {
		case r == '[':
			bracket = true
		case r == ']':
			bracket = false
		case r == ':' && !bracket:
			colon = i
		}
	}
	if colon < 0 {
		return host, ""
	}
	return host[:colon], host[colon+1:]
}

// A page is what an Origin says of where a script comes from.
type page struct {
	scheme string
	short  string // the host, without the scheme's default port
	full   string // the host, with a port if the scheme has one by default
}

func (p page) isNull() bool { return p.scheme == "" }

// newPage returns the page with this scheme and host.
func newPage(scheme, host string) page {
	name, port := split(strings.ToLower(host))
	byDefault := defaultPorts[scheme]
	p := page{scheme: scheme, short: name, full: name}
	if port != "" && port != byDefault {
		p.short += ":" + port
		p.full = p.short
	} else if byDefault != "" {
		p.full += ":" + byDefault
	}
	return p
}

// Allowed reports whether a page with this Origin may connect to host, the host of the
// request. A page of that host itself may if its scheme is https, or http and the
// request came without TLS. A proxy may have ended TLS, so a request without TLS may
// come from either.
func Allowed(origin, host string, tls bool, patterns []Pattern) bool {
	from := page{}
	if origin != null {
		u, err := url.Parse(origin)
		if err != nil || u.Scheme == "" {
			return false
		}
		from = newPage(u.Scheme, u.Host)
	}
	if from.short != "" && (from.scheme == "https" || from.scheme == "http" && !tls) && from == newPage(from.scheme, host) {
		return true
	}
	for _, p := range patterns {
		if p.matches(from) {
			return true
		}
	}
	return false
}

func (p Pattern) matches(from page) bool {
	if p.glob == null {
		return from.isNull()
	}
	if from.isNull() && p.scheme {
		return false
	}
	prefix := ""
	if p.scheme {
		prefix = from.scheme + "://"
	}
	for _, host := range []string{from.short, from.full} {
		if ok, _ := path.Match(p.glob, prefix+host); ok { // Parse has checked it
			return true
		}
	}
	return false
}
