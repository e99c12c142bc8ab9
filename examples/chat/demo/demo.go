// Package demo is the chat of the herald examples: nodes that share one
// Redis, a front door before them, and the page.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"

	"github.com/heraldgo/herald"
)

// Prefix begins the names of the demo in Redis, and those that a Bus of NewBus uses
// on its broker.
const Prefix = "herald-chat"

// shutdownTime is what a graceful end may take.
const shutdownTime = 4 * time.Second

// Options say what Run runs.
type Options struct {
	Addr  string // the front door's
	Nodes int    // 1 to 64
	Redis string // a URL for NewRedis; empty is a Redis inside this process

	// NewBus makes the Bus of a node. If it is nil, Redis is the Bus.
	// Redis is the Registry in any case.
	NewBus func(node string) (herald.Bus, error)

	Out io.Writer // gets one line for each address, when all of them answer
	Log io.Writer // gets what the nodes have to say about trouble
}

// Run runs the demo until ctx is done, and then shuts it down gracefully:
// that is no error. It leaves no goroutine. It silences go-redis for the whole
// program.
func Run(ctx context.Context, o Options) error {
	// A node that is stopped loses its links to Redis on purpose, which
	// go-redis would report on stderr. What matters, the Hubs log.
	redis.SetLogger(&logging.VoidLogger{})
	if o.Nodes < 1 || o.Nodes > 64 {
		return fmt.Errorf("-nodes %d: must be 1 to 64", o.Nodes)
	}
	// The door first: a port in use is the likeliest fault.
	listener, err := net.Listen("tcp", o.Addr)
	if err != nil {
		return fmt.Errorf("-addr %s: %w", o.Addr, err)
	}
	defer listener.Close()
	store, err := openStore(ctx, o.Redis)
	if err != nil {
		return err
	}
	defer store.close()

	cluster := newCluster(o, store)
	if err := cluster.startAll(ctx); err != nil {
		cluster.shutdown(context.Background())
		return err
	}
	door := newFrontDoor(cluster)
	served := make(chan error, 1)
	go func() { served <- door.serve(listener) }()

	fmt.Fprintf(o.Out, "front door %s\n", baseURL(listener.Addr()))
	for _, n := range cluster.list() {
		fmt.Fprintf(o.Out, "node %s %s\n", n.Name, n.URL)
	}

	select {
	case <-ctx.Done():
		err = nil
	case err = <-served:
		served <- err
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTime)
	defer cancel()
	// The nodes say goodbye to the clients through the door, so it stays until they
	// have. It only lets in nobody new.
	var closing sync.WaitGroup
	closing.Go(func() { cluster.shutdown(grace) })
	closing.Go(func() { door.shutdown(grace) })
	closing.Wait()
	door.close()
	if serveErr := <-served; err == nil && !errors.Is(serveErr, http.ErrServerClosed) {
		err = serveErr
	}
	return err
}

// baseURL returns the URL under which a listener can be reached from here.
func baseURL(addr net.Addr) string {
	tcp := addr.(*net.TCPAddr)
	host := tcp.IP.String()
	if tcp.IP.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "http://" + net.JoinHostPort(host, fmt.Sprint(tcp.Port))
}
