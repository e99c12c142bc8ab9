package faultrig

import (
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald/internal/test/netproxy"
	"github.com/heraldgo/herald/internal/test/redistest"
)

// A Broker carries the messages of a trial instead of Redis, which then has only
// the Registry.
type Broker struct {
	// Kind is the name of its Bus in the argument of Main.
	Kind string

	// Addrs are the addresses of its servers. If it can be split, each node uses
	// one of them, in turn. Otherwise each node knows them all.
	Addrs []string

	// Kill stops it hard, and Restart starts it again.
	Kill, Restart func()

	// Split cuts its servers off from each other, or joins them again. It is nil if
	// that is not possible.
	Split func(on bool)
}

// These are the values of Options.Bus for Buses on Redis.
const (
	Redis    = "Redis"
	Sentinel = "Sentinel"
	Cluster  = "Cluster"
)

// servers has the servers of a trial. Those that it does not need are nil.
type servers struct {
	server  *redistest.Server
	rdb     *redis.Client // of server, or of the master of set
	set     *redistest.Sentinels
	split   *redistest.SplitSentinels
	cluster *redistest.Cluster
	broker  *Broker
	step    func(time.Duration) // of server's clock
}

// startServers starts the servers that a fault needs.
func startServers(t testing.TB, f Fault, o Options) *servers {
	t.Helper()
	s := new(servers)
	switch o.Bus {
	case Sentinel:
		if f.split {
			s.split = redistest.StartSplitSentinels(t)
			break
		}
		s.set = redistest.StartSentinels(t)
		s.rdb = s.set.Client()
	case Cluster:
		s.cluster = redistest.StartCluster(t, 3, 3)
	case Redis:
		var args []string
		if f.disk {
			args = []string{"--appendonly", "yes", "--appendfsync", "always"}
		}
		if f.clock {
			clocked := redistest.StartWithClock(t, args...)
			s.server, s.step = clocked.Server, clocked.Step
		} else {
			s.server = redistest.Start(t, args...)
		}
		s.rdb = s.server.Client()
	default:
		s.server = redistest.Start(t)
		s.broker = o.StartBroker(t, f.split)
	}
	return s
}

// connect sets where the ith node finds its servers: behind proxies of its own,
// unless the set already has proxies.
func (s *servers) connect(t testing.TB, to *settings, i int) *peer {
	t.Helper()
	p := &peer{t: t}
	to.Via = make(map[string]string)
	via := func(addrs ...string) []string {
		for _, addr := range addrs {
			proxy := netproxy.Start(t, addr)
			to.Via[addr] = proxy.Addr
			p.bus = append(p.bus, proxy)
		}
		return addrs
	}
	switch {
	case s.split != nil:
		to.Redis, to.Sentinel, to.Side = s.split.Fronts(), redistest.MasterName, redistest.Majority
		if i == 0 {
			to.Side = redistest.Minority
		}
	case s.set != nil:
		to.Redis, to.Sentinel = via(s.set.Addrs()...), redistest.MasterName
		for _, server := range s.set.Servers {
			via(server.Addr)
		}
	case s.cluster != nil:
		to.Redis, to.Cluster = via(s.cluster.Addrs()...), true
	case s.broker != nil:
		to.Redis, to.Kind = []string{s.server.Addr}, s.broker.Kind
		to.Broker = s.broker.Addrs
		if s.broker.Split != nil {
			at := i % len(s.broker.Addrs)
			to.Broker = to.Broker[at : at+1]
		}
		via(to.Broker...)
	default:
		to.Redis = via(s.server.Addr)
	}
	return p
}
