package natsbus

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/heraldgo/herald"
)

// A server is one that can be dialed.
type server struct {
	url     *url.URL // with its credentials
	tlsName string   // the name of its certificate, if its URL has none
}

// A dialer opens links.
type dialer struct {
	options nats.Options // the user's, without what we do ourselves
	user    nats.Options // as they came
	skipTLS bool
	timeout time.Duration // for an answer

	mu         sync.Mutex
	configured []*server // in the order in which to try them
	discovered []*server
}

// newDialer derives from the user's options those of our links, for which nats.go
// does no more than open a connection to one server and log in.
func newDialer(urls string, set []nats.Option, timeout time.Duration) (*dialer, error) {
	o := nats.GetDefaultOptions()
	for u := range strings.SplitSeq(urls, ",") {
		if u = strings.TrimSpace(u); u != "" {
			o.Servers = append(o.Servers, u)
		}
	}
	for _, option := range set {
		if option == nil {
			continue
		}
		if err := option(&o); err != nil {
			return nil, fmt.Errorf("%w: Options.NATS: %w", herald.ErrInvalid, err)
		}
	}
	if o.Timeout <= 0 {
		o.Timeout = nats.DefaultTimeout
	}
	d := &dialer{user: o, timeout: timeout}
	if skip, ok := o.CustomDialer.(interface{ SkipTLSHandshake() bool }); ok {
		d.skipTLS = skip.SkipTLSHandshake()
	}
	if err := d.parseServers(&o); err != nil {
		return nil, err
	}
	d.options = ours(o)
	return d, nil
}

// ours returns the options of a connection that is made once, writes nothing
// by itself, and calls nobody back.
func ours(o nats.Options) nats.Options {
	o.Url, o.Servers, o.NoRandomize, o.SkipHostLookup, o.IgnoreDiscoveredServers = "", nil, true, true, true
	o.Dialer, o.CustomDialer, o.InProcessServer, o.AllowMultipathTCP = nil, nil, nil, nil
	o.AllowReconnect, o.RetryOnFailedConnect = false, false
	o.PingInterval, o.ReconnectBufSize = -1, -1
	o.NoEcho, o.Verbose, o.Pedantic = false, false, false
	if o.Name == "" {
		o.Name = "herald"
	}
	o.ConnectedCB, o.ClosedCB, o.DisconnectedCB, o.ReconnectedCB = nil, nil, nil, nil
	o.DisconnectedErrCB, o.ReconnectErrCB, o.ReconnectToServerCB = nil, nil, nil
	o.DiscoveredServersCB, o.LameDuckModeHandler = nil, nil
	o.AsyncErrorCB = func(*nats.Conn, *nats.Subscription, error) {} // the default one prints
	return o
}

// parseServers parses the URLs of the options, and sets Secure if one asks for it. No
// error has a URL's text in it, because that may hold a password.
func (d *dialer) parseServers(o *nats.Options) error {
	if len(o.Servers) == 0 && o.Url == "" && o.InProcessServer != nil {
		o.Url = nats.DefaultURL
	}
	if len(o.Servers) == 0 && o.Url == "" {
		return fmt.Errorf("%w: url: must name a server", herald.ErrInvalid)
	}
	for i, text := range o.Servers {
		s, err := parseServer(text)
		if err != nil {
			return fmt.Errorf("%w: url: server %d: %w", herald.ErrInvalid, i+1, err)
		}
		d.configured = append(d.configured, s)
	}
	if !o.NoRandomize {
		rand.Shuffle(len(d.configured), func(i, j int) {
			d.configured[i], d.configured[j] = d.configured[j], d.configured[i]
		})
	}
	if o.Url != "" { // nats.go tries this one first
		s, err := parseServer(o.Url)
		if err != nil {
			return fmt.Errorf("%w: Options.NATS: Url: %w", herald.ErrInvalid, err)
		}
		d.configured = slices.Insert(d.configured, 0, s)
	}
	for _, s := range d.configured {
		if s.url.Scheme == "tls" {
			o.Secure = true
			if o.TLSConfig == nil {
				o.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
			}
		}
	}
	return nil
}

func parseServer(text string) (*server, error) {
	if !strings.Contains(text, "://") {
		text = "nats://" + text
	}
	u, err := url.Parse(text)
	if err != nil {
		if wrapped, ok := errors.AsType[*url.Error](err); ok {
			err = wrapped.Err
		}
		if _, ok := errors.AsType[url.EscapeError](err); ok || strings.Contains(err.Error(), `"`) {
			err = errors.New("must be a URL") // the text is quoted, and may be the password's
		}
		return nil, err
	}
	switch {
	case u.Scheme == "ws" || u.Scheme == "wss":
		return nil, errors.New("WebSocket is not supported: must be nats:// or tls://")
	case u.Scheme != "nats" && u.Scheme != "tls":
		return nil, errors.New("the scheme must be nats or tls")
	case u.Hostname() == "":
		return nil, errors.New("must name a host")
	}
	if u.Port() == "" {
		u.Host = strings.TrimSuffix(u.Host, ":") + ":4222"
	}
	return &server{url: u}, nil
}

// candidates returns the servers in the order in which to try them; near,
// if it is not nil, comes first.
func (d *dialer) candidates(near *server) []*server {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := slices.Concat(d.configured, d.discovered)
	if i := slices.Index(all, near); i > 0 {
		copy(all[1:], all[:i])
		all[0] = near
	}
	return all
}

// failed moves the server to the end of its list, so that it is tried last.
func (d *dialer) failed(s *server) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, list := range [][]*server{d.configured, d.discovered} {
		if i := slices.Index(list, s); i >= 0 {
			copy(list[i:], list[i+1:])
			list[len(list)-1] = s
		}
	}
}

// maxServers is how many servers of a cluster are known.
const maxServers = 1000

// discover notes the servers of a cluster, which one of them names in INFO.
func (d *dialer) discover(from *server, info *nats.ServerInfo) {
	if d.user.IgnoreDiscoveredServers || len(info.ConnectURLs) == 0 {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	known := d.discovered
	d.discovered = nil
	for _, host := range info.ConnectURLs[:min(len(info.ConnectURLs), maxServers)] {
		same := func(s *server) bool { return s.url.Host == host }
		if slices.ContainsFunc(d.configured, same) {
			continue
		}
		if i := slices.IndexFunc(known, same); i >= 0 {
			d.discovered = append(d.discovered, known[i])
			continue
		}
		s := &server{url: &url.URL{Scheme: "nats", Host: host, User: from.url.User}, tlsName: from.tlsName}
		if name := from.url.Hostname(); net.ParseIP(name) == nil {
			s.tlsName = name
		}
		d.discovered = append(d.discovered, s)
	}
}

// connect opens a connection to address, with the dialer of the user.
func (d *dialer) connect(ctx context.Context, address string) (net.Conn, error) {
	if d.user.InProcessServer != nil {
		return d.user.InProcessServer.InProcessConn()
	}
	dialer := &net.Dialer{}
	if d.user.Dialer != nil {
		*dialer = *d.user.Dialer
	}
	if d.user.AllowMultipathTCP != nil {
		dialer.SetMultipathTCP(*d.user.AllowMultipathTCP)
	}
	addresses := d.resolve(ctx, address, dialer.Resolver)
	var errs []error
	for i, address := range addresses {
		if d.user.CustomDialer != nil {
			conn, err := d.user.CustomDialer.Dial("tcp", address)
			if err == nil {
				return conn, nil
			}
			errs = append(errs, err)
			continue
		}
		deadline, _ := ctx.Deadline()
		ctx, cancel := context.WithTimeout(ctx, time.Until(deadline)/time.Duration(len(addresses)-i))
		conn, err := dialer.DialContext(ctx, "tcp", address)
		cancel()
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// resolve returns the addresses of a host name, in random order: one name may
// stand for all servers of a cluster.
func (d *dialer) resolve(ctx context.Context, address string, resolver *net.Resolver) []string {
	host, port, err := net.SplitHostPort(address)
	if err != nil || d.user.SkipHostLookup || net.ParseIP(host) != nil {
		return []string{address}
	}
	if resolver == nil {
		resolver = net.DefaultResolver
	}
	hosts, err := resolver.LookupHost(ctx, host)
	if err != nil || len(hosts) == 0 {
		return []string{address} // dialing it says what is wrong
	}
	if !d.user.NoRandomize {
		rand.Shuffle(len(hosts), func(i, j int) { hosts[i], hosts[j] = hosts[j], hosts[i] })
	}
	for i, host := range hosts {
		hosts[i] = net.JoinHostPort(host, port)
	}
	return hosts
}

// tlsConfig returns what a handshake with the server needs.
func (d *dialer) tlsConfig(s *server) (*tls.Config, error) {
	config := &tls.Config{}
	if d.options.TLSConfig != nil {
		config = d.options.TLSConfig.Clone()
	}
	if d.options.TLSCertCB != nil {
		cert, err := d.options.TLSCertCB()
		if err != nil {
			return nil, err
		}
		config.Certificates = []tls.Certificate{cert}
	}
	if d.options.RootCAsCB != nil {
		roots, err := d.options.RootCAsCB()
		if err != nil {
			return nil, err
		}
		config.RootCAs = roots
	}
	if config.ServerName == "" {
		config.ServerName = s.tlsName
	}
	if config.ServerName == "" {
		config.ServerName = s.url.Hostname()
	}
	return config, nil
}
