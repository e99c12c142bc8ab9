package demo

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"sync/atomic"
	"time"
)

var errNoNode = errors.New("no node is running")

// A frontDoor is the load balancer: it gives each connection to the next
// node that runs.
type frontDoor struct {
	server  *http.Server
	clients links          // those whose sockets go through
	tabs    tabs           // those of them that may be cut
	sockets sync.WaitGroup // requests that are being passed on
	pools   []*http.Transport
}

type clientKey struct{}

func newFrontDoor(c *cluster) *frontDoor {
	d := &frontDoor{}
	mux := http.NewServeMux()
	servePage(mux)
	serveControls(mux, c, &d.tabs)
	// Sockets take turns of their own, so that questions between two of them
	// do not send both to one node.
	mux.Handle("GET /ws", d.proxy(c))
	mux.Handle("GET /api/online", d.proxy(c))
	admin := d.proxy(c)
	mux.HandleFunc("/admin/", func(w http.ResponseWriter, r *http.Request) {
		if _, err := authorize(r); err != nil { // a node would see the door's own address
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		admin.ServeHTTP(w, r)
	})
	d.server = newServer(c.hosts.only(mux))
	d.server.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		return context.WithValue(ctx, clientKey{}, conn)
	}
	return d
}

// proxy returns a handler that passes requests on to the nodes in turn.
func (d *frontDoor) proxy(c *cluster) http.Handler {
	pool := &http.Transport{
		DialContext:           (&net.Dialer{Timeout: 2 * time.Second}).DialContext,
		ResponseHeaderTimeout: 15 * time.Second,
		IdleConnTimeout:       30 * time.Second,
		DisableCompression:    true,
	}
	d.pools = append(d.pools, pool)
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetXForwarded()
			r.Out.Host = r.In.Host // what the nodes compare a page's Origin with
			r.Out.URL.Scheme = "http"
		},
		Transport: &balancer{addrs: c.running, next: pool},
		ErrorLog:  log.New(io.Discard, "", 0), // it would only say that a socket ended
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if errors.Is(err, errNoNode) {
				w.Header().Set("Retry-After", "1")
				writeError(w, http.StatusServiceUnavailable, errNoNode.Error())
				return
			}
			writeError(w, http.StatusBadGateway, "the node did not answer")
		},
	}
	passOn := d.tabs.through(proxy)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		client := r.Context().Value(clientKey{}).(net.Conn)
		d.sockets.Add(1)
		defer d.sockets.Done()
		if !d.clients.add(client) {
			client.Close()
			return
		}
		defer d.clients.remove(client)
		passOn.ServeHTTP(w, r)
	})
}

// serve serves the clients that come to listener, until the door is closed.
func (d *frontDoor) serve(listener net.Listener) error {
	return d.server.Serve(lineListener{listener})
}

// shutdown takes nobody new, and waits for requests until ctx is done. Sockets stay.
func (d *frontDoor) shutdown(ctx context.Context) {
	d.tabs.restoreAll() // otherwise shutdown would wait for requests that wait for that
	d.server.Shutdown(ctx)
}

// close cuts what still goes through and waits for it. The server has been
// shut down before.
func (d *frontDoor) close() {
	d.clients.cut()
	d.server.Close()
	d.tabs.restoreAll() // sockets that were cut are still open
	d.sockets.Wait()
	for _, p := range d.pools {
		p.CloseIdleConnections()
	}
}

// A balancer sends each request to the next of the addresses, and to the
// one after it if nobody answers the call.
type balancer struct {
	addrs func() []string
	turn  atomic.Uint64
	next  http.RoundTripper
}

// RoundTrip asks the next node that can be reached.
func (b *balancer) RoundTrip(r *http.Request) (*http.Response, error) {
	addrs := b.addrs()
	err := errNoNode
	for range addrs {
		addr := addrs[(b.turn.Add(1)-1)%uint64(len(addrs))]
		to := *r
		to.URL = &url.URL{Scheme: r.URL.Scheme, Host: addr, Path: r.URL.Path, RawPath: r.URL.RawPath, RawQuery: r.URL.RawQuery}
		var response *http.Response
		response, err = b.next.RoundTrip(&to)
		if op, ok := errors.AsType[*net.OpError](err); !ok || op.Op != "dial" {
			return response, err
		}
	}
	return nil, err
}
