package redistest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald/internal/test/netproxy"
	"github.com/heraldgo/herald/internal/test/servertest"
)

// These are the sides of a SplitSentinels. Connections of a side come from its
// address.
const (
	Minority = "127.0.1.1"
	Majority = "127.0.1.2"
)

// SplitSentinels is a Sentinel set whose network can be split. The first server,
// which is the master, and the first Sentinel are on the minority's side. Two
// replicas and two Sentinels are on the other. All know each other only by the
// addresses of proxies.
type SplitSentinels struct {
	*Sentinels

	proxies []*netproxy.Proxy // the servers', then the Sentinels'
}

// StartSplitSentinels is StartSentinels with a network that can be split.
func StartSplitSentinels(t testing.TB) *SplitSentinels {
	t.Helper()
	if servertest.Find("redis-sentinel") == "" {
		servertest.Missing(t, "redis-sentinel", "redis-sentinel")
	}
	s := &SplitSentinels{Sentinels: &Sentinels{t: t}}
	var host, port string
	for i := range 3 {
		server := Start(t, "--repl-diskless-sync-delay", "0", "--repl-timeout", "10")
		s.Servers = append(s.Servers, server)
		at := s.front(server.Addr)
		s.configure(server, "replica-announce-ip", at[0], "replica-announce-port", at[1], "bind-source-addr", side(i))
		if i == 0 {
			host, port = at[0], at[1]
		} else if err := server.Client().ReplicaOf(context.Background(), host, port).Err(); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 3 {
		addr := servertest.FreeAddr(t)
		at := s.front(addr)
		s.Sentinels.Sentinels = append(s.Sentinels.Sentinels, startSentinel(t, addr, host, port,
			"sentinel announce-ip "+at[0], "sentinel announce-port "+at[1], "bind-source-addr "+side(i)))
	}
	s.await("a set that can fail over", func() error { return s.whole(net.JoinHostPort(host, port)) })
	return s
}

// side returns the side of the ith server or Sentinel.
func side(i int) string {
	if i == 0 {
		return Minority
	}
	return Majority
}

// front starts a proxy for addr, and returns the proxy's host and port.
func (s *SplitSentinels) front(addr string) [2]string {
	p := netproxy.Start(s.t, addr)
	s.proxies = append(s.proxies, p)
	host, port, _ := net.SplitHostPort(p.Addr)
	return [2]string{host, port}
}

func (s *SplitSentinels) configure(server *Server, pairs ...string) {
	s.t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if err := server.Client().ConfigSet(context.Background(), pairs[i], pairs[i+1]).Err(); err != nil {
			s.t.Fatal(err)
		}
	}
}

// Fronts returns the addresses of the Sentinels' proxies.
func (s *SplitSentinels) Fronts() []string {
	var addrs []string
	for _, p := range s.proxies[len(s.Servers):] {
		addrs = append(addrs, p.Addr)
	}
	return addrs
}

// Client returns a client on one side, which follows the master. It is closed when
// the test ends.
func (s *SplitSentinels) Client(side string) *redis.Client {
	dialer := &net.Dialer{Timeout: time.Second, LocalAddr: &net.TCPAddr{IP: net.ParseIP(side)}}
	c := redis.NewFailoverClient(&redis.FailoverOptions{
		MasterName:    MasterName,
		SentinelAddrs: s.Fronts(),
		Dialer:        dialer.DialContext,
		ReadTimeout:   time.Second, // go-redis tries a Sentinel that is cut off eight times
	})
	s.t.Cleanup(func() { c.Close() })
	return c
}

// Split cuts the two sides off from each other, or joins them again. Bytes that
// were sent meanwhile arrive then.
func (s *SplitSentinels) Split(on bool) {
	for i, p := range s.proxies {
		other := Minority
		if side(i%len(s.Servers)) == Minority {
			other = Majority
		}
		p.StallHost(other, on)
	}
}

// AwaitFailover waits until the majority's Sentinels name a master other than the
// first server, and that server is one.
func (s *SplitSentinels) AwaitFailover() {
	s.t.Helper()
	s.await("another master", func() error {
		_, err := s.named(s.Sentinels.Sentinels[1:])
		return err
	})
}

// AwaitRejoined waits until all Sentinels name that other master, and the first
// server is its replica.
func (s *SplitSentinels) AwaitRejoined() {
	s.t.Helper()
	s.await("one master", func() error {
		if _, err := s.named(s.Sentinels.Sentinels); err != nil {
			return err
		}
		return hasRole(s.Servers[0].Addr, "slave")
	})
}

// named returns the master that all of these Sentinels name. It is an error if that
// is the first server.
func (s *SplitSentinels) named(by []*servertest.Server) (*Server, error) {
	var master *Server
	for _, sentinel := range by {
		err := ask(sentinel.Addr, func(ctx context.Context, c *redis.SentinelClient) error {
			addr, err := c.GetMasterAddrByName(ctx, MasterName).Result()
			if err != nil {
				return err
			}
			for i, server := range s.Servers {
				if s.proxies[i].Addr == net.JoinHostPort(addr[0], addr[1]) {
					if master != nil && master != server {
						return errors.New("the Sentinels disagree")
					}
					master = server
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	if master == nil || master == s.Servers[0] {
		return nil, fmt.Errorf("the Sentinels name %v", master)
	}
	return master, hasRole(master.Addr, "master")
}
