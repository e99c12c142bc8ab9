package demo

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"

	"github.com/heraldgo/herald"
)

// hosts are the names under which clients may reach a server. The demo has no cookies
// and believes everybody who reaches it, so that the Origin alone protects it from
// other sites' pages. To its browser, a page whose name is made to lead here (DNS
// rebinding) is not another site: the browser sends that name as Origin and as Host.
// So the Host must be one of ours.
type hosts struct {
	name string     // the one in the front door's -addr, if any
	addr netip.Addr // the one in the front door's -addr, if any
}

// hostsOf returns the hosts of a server that listens on addr.
func hostsOf(addr string) hosts {
	name, _, _ := net.SplitHostPort(addr)
	if name == "" {
		return hosts{addr: netip.IPv4Unspecified()}
	}
	if ip, err := netip.ParseAddr(name); err == nil {
		return hosts{addr: ip}
	}
	return hosts{name: name}
}

// allow reports whether host, with or without a port, is one of the hosts.
func (h hosts) allow(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	} else if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
		host = host[1 : len(host)-1]
	}
	if host == "" {
		return false
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return strings.EqualFold(host, "localhost") || strings.EqualFold(host, h.name)
	}
	// A server on all addresses has each of them, and none can be rebound.
	return ip.IsLoopback() || ip == h.addr || h.addr.IsValid() && h.addr.IsUnspecified()
}

// authorize lets whoever is on this machine see the page of heraldadmin, which shows
// where everybody comes from.
func authorize(r *http.Request) (who string, err error) {
	addr, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil || !addr.Addr().Unmap().IsLoopback() {
		return "", &herald.HTTPError{Status: http.StatusForbidden, Message: "the demo shows this page on its own machine only"}
	}
	return "the demo", nil
}

// only returns a handler that refuses requests for other hosts.
func (h hosts) only(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !h.allow(r.Host) {
			writeError(w, http.StatusMisdirectedRequest, fmt.Sprintf("Host: %s: must be localhost, 127.0.0.1, [::1], or the host of -addr", short(r.Host)))
			return
		}
		next.ServeHTTP(w, r)
	})
}
