package redistest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald/internal/test/servertest"
)

// MasterName is the Sentinels' name for the master. It differs in each process,
// because otherwise Sentinels of tests that run beside it could join ours, if they
// look for a server of theirs at an address that one of ours has now.
var MasterName = fmt.Sprint("main", os.Getpid())

// sentinelPatience is how long the Sentinels may take to agree.
const sentinelPatience = 60 * time.Second

// Sentinels is a master, two replicas, and three Sentinels that watch them, all of
// them started by the test. Two Sentinels make a majority. A master that does not
// answer for a second is down.
type Sentinels struct {
	Servers   []*Server            // the first one is the first master
	Sentinels []*servertest.Server // redis-sentinel

	t testing.TB
}

// StartSentinels starts a set that is stopped when the test ends, and waits until a
// failover is possible. If a server is not installed, it skips the test, or fails
// it under CI=true.
func StartSentinels(t testing.TB) *Sentinels {
	t.Helper()
	if servertest.Find("redis-sentinel") == "" {
		servertest.Missing(t, "redis-sentinel", "redis-sentinel")
	}
	s := &Sentinels{t: t}
	// A full synchronisation must not wait for more replicas.
	at := []string{"--repl-diskless-sync-delay", "0", "--repl-timeout", "10"}
	s.Servers = append(s.Servers, Start(t, at...))
	host, port, _ := net.SplitHostPort(s.Servers[0].Addr)
	for range 2 {
		s.Servers = append(s.Servers, Start(t, append(at, "--replicaof", host+" "+port)...))
	}
	for range 3 {
		s.Sentinels = append(s.Sentinels, startSentinel(t, servertest.FreeAddr(t), host, port))
	}
	s.await("a set that can fail over", func() error { return s.whole(s.Servers[0].Addr) })
	return s
}

// startSentinel starts a Sentinel at addr, which watches the master at host and
// port. more has lines of its configuration.
func startSentinel(t testing.TB, addr, host, port string, more ...string) *servertest.Server {
	t.Helper()
	_, own, _ := net.SplitHostPort(addr)
	dir := t.TempDir()
	config := filepath.Join(dir, "sentinel.conf") // the Sentinel rewrites it
	text := fmt.Sprintf("port %s\nbind 127.0.0.1\ndir %q\n"+
		"sentinel monitor %[3]s %s %s 2\n"+
		"sentinel down-after-milliseconds %[3]s 2000\n"+
		"sentinel failover-timeout %[3]s 5000\n"+
		"sentinel parallel-syncs %[3]s 2\n%[6]s\n", own, dir, MasterName, host, port, strings.Join(more, "\n"))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return servertest.Start(t, servertest.Command{
		Program:  "redis-sentinel",
		Package:  "redis-sentinel",
		Args:     []string{config},
		Addr:     addr,
		Ready:    func() error { return ping(addr) },
		Patience: 20 * time.Second,
	})
}

// Addrs returns the addresses of the Sentinels.
func (s *Sentinels) Addrs() []string {
	var addrs []string
	for _, sentinel := range s.Sentinels {
		addrs = append(addrs, sentinel.Addr)
	}
	return addrs
}

// Client returns a client that follows the master. It is closed when the test ends.
func (s *Sentinels) Client() *redis.Client {
	c := redis.NewFailoverClient(&redis.FailoverOptions{MasterName: MasterName, SentinelAddrs: s.Addrs()})
	s.t.Cleanup(func() { c.Close() })
	return c
}

// Master returns the server that all Sentinels name as the master.
func (s *Sentinels) Master() *Server {
	s.t.Helper()
	var master *Server
	s.await("one master", func() (err error) {
		master, err = s.agreed()
		return err
	})
	return master
}

// Replicas returns the servers that are not the master.
func (s *Sentinels) Replicas() []*Server {
	s.t.Helper()
	master := s.Master()
	var replicas []*Server
	for _, server := range s.Servers {
		if server != master {
			replicas = append(replicas, server)
		}
	}
	return replicas
}

// AwaitFailover waits until all Sentinels name a server other than old as the
// master, and that server is one. It returns that server.
func (s *Sentinels) AwaitFailover(old *Server) *Server {
	s.t.Helper()
	var master *Server
	s.await("another master than "+old.Addr, func() (err error) {
		if master, err = s.agreed(); err == nil && master == old {
			err = errors.New("it is the master still")
		}
		if err != nil {
			return err
		}
		return hasRole(master.Addr, "master")
	})
	return master
}

// AwaitOneMaster waits until the server that all Sentinels name is the only running
// master. For some ten seconds they take an old master that still calls itself one
// for a mistake of their own.
func (s *Sentinels) AwaitOneMaster() {
	s.t.Helper()
	s.await("one master", func() error {
		master, err := s.agreed()
		if err != nil {
			return err
		}
		for _, server := range s.Servers {
			if server != master && servertest.Dial(server.Addr) == nil {
				err = errors.Join(err, hasRole(server.Addr, "slave"))
			}
		}
		return err
	})
}

// Failover makes the Sentinels appoint another master, though the present one is
// well, and returns the new one. The old one is a master too, until AwaitOneMaster
// returns.
func (s *Sentinels) Failover() *Server {
	s.t.Helper()
	old := s.Master()
	s.await("a failover", func() error {
		return ask(s.Sentinels[0].Addr, func(ctx context.Context, c *redis.SentinelClient) error {
			return c.Failover(ctx, MasterName).Err()
		})
	})
	return s.AwaitFailover(old)
}

// agreed returns the server that all running Sentinels name as the master.
func (s *Sentinels) agreed() (*Server, error) {
	agreed := ""
	for _, sentinel := range s.Sentinels {
		err := ask(sentinel.Addr, func(ctx context.Context, c *redis.SentinelClient) error {
			addr, err := c.GetMasterAddrByName(ctx, MasterName).Result()
			if err != nil {
				return err
			}
			if master := net.JoinHostPort(addr[0], addr[1]); agreed == "" {
				agreed = master
			} else if master != agreed {
				return fmt.Errorf("the Sentinels disagree: %s, %s", agreed, master)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	for _, server := range s.Servers {
		if server.Addr == agreed {
			return server, nil
		}
	}
	return nil, fmt.Errorf("the master %s is none of ours", agreed)
}

// whole returns nil if every Sentinel knows the others, and sees both replicas as
// up to date.
func (s *Sentinels) whole(master string) error {
	for _, sentinel := range s.Sentinels {
		err := ask(sentinel.Addr, func(ctx context.Context, c *redis.SentinelClient) error {
			others, err := c.Sentinels(ctx, MasterName).Result()
			if err != nil || len(others) != len(s.Sentinels)-1 {
				return fmt.Errorf("%s knows %d other Sentinels, %v", sentinel.Addr, len(others), err)
			}
			replicas, err := c.Replicas(ctx, MasterName).Result()
			if err != nil || len(replicas) != len(s.Servers)-1 {
				return fmt.Errorf("%s knows %d replicas, %v", sentinel.Addr, len(replicas), err)
			}
			for _, r := range replicas {
				if r["master-link-status"] != "ok" {
					return fmt.Errorf("the replica %s of %s has no link: %s", r["name"], master, r["flags"])
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *Sentinels) await(what string, done func() error) {
	s.t.Helper()
	deadline := time.Now().Add(sentinelPatience)
	for err := done(); err != nil; err = done() {
		if time.Now().After(deadline) {
			s.t.Fatalf("waited in vain for %s: %v\n%s", what, err, s.Sentinels[0].Log())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// ask calls f with a client of the Sentinel at addr.
func ask(addr string, f func(context.Context, *redis.SentinelClient) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	c := redis.NewSentinelClient(&redis.Options{Addr: addr, MaxRetries: -1, DialerRetries: 1, ContextTimeoutEnabled: true})
	defer c.Close()
	return f(ctx, c)
}

// hasRole returns nil if the server at addr has the role.
func hasRole(addr, role string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	c := redis.NewClient(&redis.Options{Addr: addr, MaxRetries: -1, DialerRetries: 1, ContextTimeoutEnabled: true})
	defer c.Close()
	answer, err := c.Do(ctx, "ROLE").Slice()
	if err != nil {
		return err
	}
	if len(answer) == 0 || answer[0] != role {
		return fmt.Errorf("%s has the role %v", addr, answer[:min(1, len(answer))])
	}
	return nil
}
