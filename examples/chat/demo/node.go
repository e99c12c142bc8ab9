package demo

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/heraldadmin"
)

// These are shorter than herald's defaults, so that one can watch how the sessions of
// a stopped node vanish.
const (
	lease        = 3 * time.Second
	offlineDelay = 2 * time.Second
)

// retention is how long a tab may be away and still get all that it missed.
const retention = 5 * time.Minute

// silent is above every level that is logged.
const silent = slog.LevelError + 1

// A node is one of the servers behind the front door: a Hub with an address
// and links to Redis of its own, as if it were a process.
type node struct {
	name     string
	cluster  *cluster
	listener net.Listener
	server   *http.Server
	served   chan error
	level    slog.LevelVar

	redis redis.UniversalClient
	links *links     // to Redis
	bus   herald.Bus // nil if Redis is the Bus
	hub   atomic.Pointer[herald.Hub]

	stopped context.Context // done when the node ends
	stop    context.CancelFunc
	workers sync.WaitGroup
	watch   *watch
	waiting chan struct{} // a token for each goroutine that waits for receipts
}

type connKey struct{}

// startNode makes a node that listens on addr.
func startNode(ctx context.Context, c *cluster, name, addr string) (*node, error) {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	n := &node{name: name, cluster: c, listener: listener, served: make(chan error, 1), watch: newWatch(), waiting: make(chan struct{}, maxWaiting)}
	n.redis, n.links = c.store.client()
	n.level.Set(slog.LevelWarn)
	n.stopped, n.stop = context.WithCancel(context.WithoutCancel(ctx))
	if err := n.openHub(); err != nil {
		n.stop()
		listener.Close()
		n.redis.Close()
		return nil, err
	}
	n.workers.Go(n.watchRoom)
	n.workers.Go(n.tellPresence)

	mux := http.NewServeMux()
	servePage(mux)
	serveControls(mux, c, nil)
	mux.Handle("GET /ws", n.hub.Load())
	mux.HandleFunc("GET /api/online", n.serveOnline)
	admin, err := heraldadmin.New(heraldadmin.Config{Hub: n.hub.Load(), Authorize: authorize, Logger: n.log()})
	if err != nil { // the Config is complete
		panic(err)
	}
	mux.Handle("/admin/", http.StripPrefix("/admin", admin))
	n.server = newServer(c.hosts.only(mux))
	// The Conn's context leads to the TCP connection, for cut.
	n.server.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		return context.WithValue(ctx, connKey{}, conn)
	}
	go func() { n.served <- n.server.Serve(listener) }()
	return n, nil
}

func (n *node) openHub() error {
	config := herald.Config{
		Redis:        n.redis,
		Prefix:       Prefix,
		Name:         n.name,
		Lease:        lease,
		OfflineDelay: offlineDelay,
		Authenticate: authenticate,
		ConnContext: func(r *http.Request) context.Context {
			return context.WithValue(context.Background(), connKey{}, r.Context().Value(connKey{}))
		},
		OnConnect:    n.onConnect,
		OnMessage:    n.onMessage,
		OnDisconnect: func(c *herald.Conn, _ error) { n.watch.leave(c) },
		OnOnline:     func(user string) { n.announce(user, "came online") },
		OnOffline:    func(user string) { n.announce(user, "went offline") },
		OnGap:        n.onGap,
		Logger:       n.log(),
	}
	if n.cluster.options.NewBus != nil {
		bus, err := n.cluster.options.NewBus(n.name)
		if err != nil {
			return err
		}
		n.bus, config.Bus = bus, bus
	}
	if n.keeps() {
		config.Retention = retention
	}
	hub, err := herald.New(config)
	if err != nil {
		if config.Bus != nil {
			config.Bus.Close()
		}
		return err
	}
	n.hub.Store(hub)
	return nil
}

func (n *node) log() *slog.Logger {
	return slog.New(slog.NewTextHandler(n.cluster.options.Log, &slog.HandlerOptions{Level: &n.level})).With("on", n.name)
}

// keeps reports whether this node's Hub keeps messages. The Bus of Redis can.
func (n *node) keeps() bool { return n.cluster.options.NewBus == nil }

// cut does to the node what a crash does: at one moment its sockets are reset, and it
// can no longer tell Redis or the Bus anything.
func (n *node) cut() {
	n.level.Set(silent)
	n.links.cut()
	n.server.Close()
	for c := range n.hub.Load().Conns() {
		tcp := c.Context().Value(connKey{}).(*net.TCPConn)
		tcp.SetLinger(0)
		tcp.Close()
	}
	if n.bus != nil {
		n.bus.Close()
	}
}

// bury collects what a cut node leaves in this process. Nobody outside sees
// it: the Hub can not reach Redis any more.
func (n *node) bury() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	n.shutdown(ctx)
}

// shutdown ends the node gracefully, until ctx is done.
func (n *node) shutdown(ctx context.Context) {
	n.hub.Load().Shutdown(ctx)
	n.stop()
	n.workers.Wait()
	n.server.Shutdown(ctx)
	n.server.Close()
	<-n.served
	n.redis.Close()
}
