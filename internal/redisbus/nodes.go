package redisbus

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald/internal/redisconn"
)

// A cluster is what all links to a Redis Cluster know of it together. The client of
// go-redis knows the nodes and how to reach each, but may hear of a failover late. A
// living master tells at once.
type cluster struct {
	client *redis.ClusterClient // the Bus' own: what comes on its connections is metered

	mu      sync.Mutex
	masters map[string]struct{} // the addresses to which the last dial succeeded
}

// find returns the options of the node to dial.
func (d *dialer) find(ctx context.Context) (*redis.Options, error) {
	if d.cluster == nil {
		return d.options, nil
	}
	// It waits only for the client's first look at the Cluster.
	var master *redis.Client
	err := redisconn.Calm(func() (err error) {
		master, err = d.cluster.client.MasterForKey(ctx, cmp.Or(d.way.slot, "0"))
		return err
	})
	if err != nil {
		return nil, err
	}
	options := redisconn.LinkOptions(master.Options(), d.timeout)
	switch {
	case d.next != "":
		options = d.cluster.at(options, d.next)
	case d.failed != "":
		options.Addr = d.cluster.other(d.failed, options.Addr)
		if options.Addr == d.failed { // nobody else to ask
			d.cluster.client.ReloadState(ctx) // does not wait
		}
	}
	d.next = ""
	return options, nil
}

// tried notes how an attempt to open a link ended.
func (d *dialer) tried(ctx context.Context, addr string, err error) {
	if d.cluster == nil {
		return
	}
	d.last = addr
	if err != nil && d.follow(err) {
		return
	}
	d.cluster.mu.Lock()
	_, known := d.cluster.masters[addr]
	if err == nil {
		d.cluster.masters[addr] = struct{}{}
		d.failed = ""
	} else {
		delete(d.cluster.masters, addr)
		d.failed = addr
	}
	d.cluster.mu.Unlock()
	if known != (err == nil) {
		d.cluster.client.ReloadState(ctx)
	}
}

// follow notes the address that why, an answer of the last node, names with MOVED,
// and reports whether it names one.
func (d *dialer) follow(why error) bool {
	said, ok := errors.AsType[redisconn.Error](why)
	if !ok || d.cluster == nil {
		return false
	}
	d.next = movedTo(string(said), d.last)
	return d.next != ""
}

// movedTo returns the address that MOVED names, or "". A node that does not know its
// own host leaves it out, a TLS port can be 0, and a loopback address is useless to a
// client elsewhere. Those are taken from the address from, as go-redis does in
// CLUSTER SLOTS (https://redis.io/docs/latest/commands/cluster-slots).
func movedTo(said, from string) string {
	words := strings.Fields(said)
	if len(words) != 3 || words[0] != "MOVED" {
		return ""
	}
	at := strings.LastIndexByte(words[2], ':')
	if at < 0 {
		return ""
	}
	host, port := strings.Trim(words[2][:at], "[]"), words[2][at+1:]
	fromHost, fromPort, err := net.SplitHostPort(from)
	if err == nil {
		if host == "" || host == "?" || isLoopback(host) && !isLoopback(fromHost) {
			host = fromHost
		}
		if port == "0" {
			port = fromPort
		}
	}
	return net.JoinHostPort(host, port)
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// at returns the options of the node at addr. The user's NewClient may change
// them.
func (c *cluster) at(options *redis.Options, addr string) *redis.Options {
	o := *options
	o.Addr = addr
	client := c.client.Options().NewClient(&o)
	defer client.Close()
	return redisconn.LinkOptions(client.Options(), options.ReadTimeout)
}

// other returns the address of a master other than failed, or best if none is known.
func (c *cluster) other(failed, best string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var others []string
	if best != failed {
		others = append(others, best)
	}
	for addr := range c.masters {
		if addr != failed && addr != best {
			others = append(others, addr)
		}
	}
	if len(others) == 0 {
		return best
	}
	return others[rand.IntN(len(others))]
}
