package redisregistry_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/test/redistest"
	"github.com/heraldgo/herald/internal/test/servertest"
)

// A refusing is a Redis of some kind that can be made to refuse the user app, or
// everyone.
type refusing struct {
	name   string
	admins []*redis.Client // of each server that is to refuse
	users  []*redis.Client // of each server that has the user app
	dialer *faultyDialer
	client func(*faultyDialer) redis.UniversalClient // for the user app
}

func (s *refusing) do(t *testing.T, servers []*redis.Client, args ...any) {
	t.Helper()
	for _, admin := range servers {
		if err := admin.Do(context.Background(), args...).Err(); err != nil {
			t.Fatalf("%v: %v", args, err)
		}
	}
}

func (s *refusing) open(t *testing.T) redis.UniversalClient {
	client := s.client(s.dialer)
	t.Cleanup(func() { client.Close() })
	return client
}

const (
	appRules = "ACL SETUSER app reset on >old ~* &* +@all"
	killApp  = "CLIENT KILL USER app"
)

func refusingOne(t *testing.T) []*refusing {
	server := redistest.Start(t)
	admins := []*redis.Client{server.Client()}
	return []*refusing{{name: "one Redis", admins: admins, users: admins, client: func(d *faultyDialer) redis.UniversalClient {
		return redis.NewClient(&redis.Options{Addr: server.Addr, Username: "app", Password: "old", Dialer: d.dial})
	}}}
}

func refusingSentinel(t *testing.T) []*refusing {
	set := redistest.StartSentinels(t)
	admins := []*redis.Client{set.Master().Client()}
	return []*refusing{{name: "Sentinel", admins: admins, users: admins, client: func(d *faultyDialer) redis.UniversalClient {
		return redis.NewFailoverClient(&redis.FailoverOptions{MasterName: redistest.MasterName, SentinelAddrs: set.Addrs(),
			Username: "app", Password: "old", Dialer: d.dial})
	}}}
}

// refusingCluster returns a Cluster in which all nodes refuse, and the same one in
// which only one does.
func refusingCluster(t *testing.T) []*refusing {
	cluster := redistest.StartCluster(t, 3, 0)
	all := &refusing{name: "Cluster", client: func(d *faultyDialer) redis.UniversalClient {
		return redis.NewClusterClient(&redis.ClusterOptions{Addrs: cluster.Addrs(), Username: "app", Password: "old", Dialer: d.dial})
	}}
	for _, n := range cluster.Nodes {
		all.admins = append(all.admins, n.Admin())
	}
	all.users = all.admins
	return []*refusing{all, {name: "one of a Cluster", client: all.client, admins: all.admins[1:2], users: all.users}}
}

// A faultyDialer dials for the clients under test.
type faultyDialer struct {
	nobody   string // an address that nobody listens on
	stranger string // one of a server whose certificate nobody trusts

	mu    sync.Mutex
	only  map[string]bool // the addresses that are affected
	fault dialFault
}

type dialFault uint8

const (
	noFault dialFault = iota
	dialRefused
	dialStranger // TLS fails
	cutReply
)

func (d *faultyDialer) set(fault dialFault) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fault = fault
}

func (d *faultyDialer) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	d.mu.Lock()
	concerned, fault := d.only[addr], d.fault
	d.mu.Unlock()
	switch {
	case concerned && fault == dialRefused:
		addr = d.nobody
	case concerned && fault == dialStranger:
		return (&tls.Dialer{}).DialContext(ctx, network, d.stranger)
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, network, addr)
	if err != nil || !concerned {
		return conn, err
	}
	return &cutConn{TCPConn: conn.(*net.TCPConn), dialer: d}, nil
}

// A cutConn breaks in the middle of the first reply to a command of herald.
type cutConn struct {
	*net.TCPConn
	dialer *faultyDialer

	mu   sync.Mutex
	left int // the bytes that still pass, if above 0
}

func (c *cutConn) Write(b []byte) (int, error) {
	c.dialer.mu.Lock()
	cut := c.dialer.fault == cutReply
	c.dialer.mu.Unlock()
	lower := bytes.ToLower(b)
	ours := slices.ContainsFunc([]string{"eval", "hget", "time", "scan", "publish", "subscribe"}, func(word string) bool {
		return bytes.Contains(lower, []byte(word))
	})
	c.mu.Lock()
	if cut && ours && c.left == 0 {
		c.left = 3
	}
	c.mu.Unlock()
	return c.TCPConn.Write(b)
}

func (c *cutConn) Read(b []byte) (int, error) {
	n, err := c.TCPConn.Read(b)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left == 0 || err != nil {
		return n, err
	}
	if n = min(n, c.left); n < c.left {
		c.left -= n
		return n, nil
	}
	c.Close()
	return n, nil
}

// A refusal is a way in which Redis refuses commands.
type refusal struct {
	name       string
	begin, end func(t *testing.T, s *refusing)
	registry   []string // the methods that are refused; nil means all
	bus        []string
	words      []string // each error has one of these
	either     []string // the methods that may succeed all the same
	denied     bool     // New returns an error that does not mean that Redis is down
}

var (
	registryMethods = []string{"Add", "Remove", "Check", "Sessions", "Online", "KeepAlive of a new lease", "KeepAlive", "Release", "Nodes", "Sweep", "Offline", "Entries", "NewRedisRegistry"}
	registryScripts = []string{"Add", "Remove", "Check", "KeepAlive of a new lease", "KeepAlive", "Release", "Sweep", "Offline", "NewRedisRegistry"}
	registryWrites  = []string{"Add", "Remove", "KeepAlive of a new lease", "KeepAlive", "Release", "Sweep", "NewRedisRegistry"}
	busMethods      = []string{"Publish", "Subscribe", "Unsubscribe", "NewRedisBus"}
	none            = []string{}
)

// commands returns a function that sends commands to each server that is to refuse.
func commands(lines ...string) func(*testing.T, *refusing) {
	return func(t *testing.T, s *refusing) {
		t.Helper()
		for _, line := range lines {
			s.do(t, s.admins, words(line)...)
		}
	}
}

var refusals = []refusal{
	{name: "password changed", words: []string{"WRONGPASS"},
		begin: commands("ACL SETUSER app resetpass >new", killApp), end: commands(appRules)},
	{name: "user off", words: []string{"WRONGPASS"},
		begin: commands("ACL SETUSER app off", killApp), end: commands(appRules)},
	{name: "maxclients", words: []string{"max number of clients"},
		begin: commands("CONFIG SET maxclients 1", killApp), end: commands("CONFIG SET maxclients 1000")},
	{name: "dial refused", words: []string{"connection refused"},
		begin: func(t *testing.T, s *refusing) {
			s.dialer.set(dialRefused)
			commands(killApp)(t, s)
		},
		end: func(_ *testing.T, s *refusing) { s.dialer.set(noFault) }},
	{name: "certificate not trusted", words: []string{"x509"},
		begin: func(t *testing.T, s *refusing) {
			s.dialer.set(dialStranger)
			commands(killApp)(t, s)
		},
		end: func(_ *testing.T, s *refusing) { s.dialer.set(noFault) }},
	{name: "cut in a reply", words: []string{"EOF", "closed", "reset"},
		begin: func(_ *testing.T, s *refusing) { s.dialer.set(cutReply) },
		end:   func(_ *testing.T, s *refusing) { s.dialer.set(noFault) }},
	{name: "NOPERM", words: []string{"NOPERM"}, denied: true,
		begin: commands("ACL SETUSER app nocommands"), end: commands(appRules)},
	{name: "NOPERM of EVALSHA", words: []string{"NOPERM"}, denied: true, registry: registryScripts, bus: none,
		begin: commands("ACL SETUSER app -evalsha -eval"), end: commands(appRules)},
	{name: "NOPERM of PUBLISH and SUBSCRIBE", words: []string{"NOPERM"}, denied: true, registry: none, either: []string{"NewRedisRegistry"}, // which subscribes on Sentinels
		begin: commands("ACL SETUSER app -publish -spublish -subscribe -ssubscribe -unsubscribe -sunsubscribe"), end: commands(appRules)},
	{name: "BUSY", words: []string{"BUSY"}, begin: beginBusy, end: endBusy},
	// A script runs on if its first write is a command that frees memory.
	{name: "OOM", words: []string{"OOM"}, registry: registryWrites, either: []string{"Add", "Remove", "Check", "Release", "Sweep", "NewRedisBus"}, bus: none,
		begin: commands("CONFIG SET maxmemory 1"), end: commands("CONFIG SET maxmemory 0")},
	{name: "NOREPLICAS", words: []string{"NOREPLICAS"}, registry: registryWrites, either: []string{"Check", "NewRedisBus"}, bus: none,
		begin: commands("CONFIG SET min-replicas-to-write 9"), end: commands("CONFIG SET min-replicas-to-write 0")},
}

// beginBusy makes each server run a script that does not end.
func beginBusy(t *testing.T, s *refusing) {
	for _, admin := range s.admins {
		looping := redis.NewClient(&redis.Options{Addr: admin.Options().Addr, ReadTimeout: -1, MaxRetries: -1})
		var running sync.WaitGroup
		running.Go(func() { looping.Eval(context.Background(), "while true do end", nil) })
		t.Cleanup(func() {
			running.Wait()
			looping.Close()
		})
		eventually(t, "BUSY", func() bool { return redis.HasErrorPrefix(admin.Ping(context.Background()).Err(), "BUSY") })
	}
}

func endBusy(t *testing.T, s *refusing) {
	s.do(t, s.admins, "SCRIPT", "KILL")
	for _, admin := range s.admins {
		eventually(t, "the end of the script", func() bool { return admin.Ping(context.Background()).Err() == nil })
	}
}

// A refusal must not look like an answer: each method of a Registry and a Bus
// returns an error that says whose fault it is, in the words of Redis. With -v the
// test prints a table of the errors.
func TestRefusals(t *testing.T) {
	stranger := httptest.NewUnstartedServer(nil)
	stranger.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	stranger.StartTLS()
	t.Cleanup(stranger.Close)
	for name, start := range map[string]func(*testing.T) []*refusing{"one": refusingOne, "Sentinel": refusingSentinel, "Cluster": refusingCluster} {
		t.Run(name, func(t *testing.T) {
			for _, s := range start(t) {
				s.dialer = &faultyDialer{nobody: servertest.FreeAddr(t), stranger: stranger.Listener.Addr().String(), only: make(map[string]bool)}
				for _, admin := range s.admins {
					s.dialer.only[admin.Options().Addr] = true
				}
				s.do(t, s.users, words(appRules)...)
				s.do(t, s.users, "CONFIG", "SET", "lua-time-limit", 20)
				for _, refusal := range refusals {
					t.Run(s.name+"/"+refusal.name, func(t *testing.T) { refusal.try(t, s) })
				}
			}
		})
	}
}

// try calls every method while s refuses.
func (f *refusal) try(t *testing.T, s *refusing) {
	client := s.open(t)
	registry := redisRegistry(t, client)
	bus, err := herald.NewRedisBus(client, quick)
	if err != nil {
		t.Fatal(err)
	}
	defer bus.Close()
	calls := refusedCalls(t, registry, bus, s.name+" "+f.name)
	calls["NewRedisRegistry"] = func(context.Context) error {
		r, err := herald.NewRedisRegistry(client, nil)
		if err == nil {
			r.Close()
		}
		return err
	}
	calls["NewRedisBus"] = func(context.Context) error {
		b, err := herald.NewRedisBus(client, quick)
		if err == nil {
			b.Close()
		}
		return err
	}
	func() {
		f.begin(t, s)
		defer f.end(t, s)
		f.check(t, s, herald.ErrBusDown, busMethods, f.bus, calls)
		f.check(t, s, herald.ErrRegistryDown, registryMethods, f.registry, calls)
	}()
}

// check calls methods, and wants an error from those that are refused.
func (f *refusal) check(t *testing.T, s *refusing, down error, methods, refused []string, calls map[string]func(context.Context) error) {
	t.Helper()
	for _, method := range methods {
		if slices.Contains(f.either, method) && calls[method](t.Context()) == nil {
			continue
		}
		if refused != nil && !slices.Contains(slices.Concat(refused, f.either), method) {
			if err := calls[method](t.Context()); err != nil {
				t.Errorf("%s, which is not refused: %v", method, err)
			}
			continue
		}
		err := f.refusedBy(t, method, down, calls[method])
		t.Logf("%s | %s | %s | %v", method, f.name, s.name, err)
		isNew := strings.HasPrefix(method, "New")
		isDown := errors.Is(err, down) || method == "Publish" && errors.Is(err, herald.ErrUnknown)
		if isDown == (isNew && f.denied) && err != nil {
			t.Errorf("%s: %v: is %q: %t", method, err, down, isDown)
		}
	}
}

// refusedBy calls a method until its error has Redis' words. At first the error may
// be another, because a connection has just been cut, but never nil. If the context
// ends a call while it is retried, the next call gets more time.
func (f *refusal) refusedBy(t *testing.T, method string, down error, call func(context.Context) error) error {
	t.Helper()
	var err error
	wait := 300 * time.Millisecond
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(t.Context(), wait)
		err = call(ctx)
		cancel()
		if err == nil {
			t.Errorf("%s: nil is no answer", method)
			return nil
		}
		if slices.ContainsFunc(f.words, func(word string) bool { return strings.Contains(err.Error(), word) }) {
			if errors.Is(err, down) || !errors.Is(err, context.DeadlineExceeded) {
				return err
			}
			wait *= 2
		}
	}
	t.Fatalf("%s: %v, and none of %q", method, err, f.words)
	return nil
}

// refusedCalls returns calls of all methods. Each does something in every shard.
func refusedCalls(t *testing.T, r *herald.RedisRegistry, bus *herald.RedisBus, node string) map[string]func(context.Context) error {
	t.Helper()
	var topics []string
	var packets []herald.Packet
	for i := range 100 {
		topics = append(topics, fmt.Sprint(node, " topic ", i))
		packets = append(packets, herald.Packet{Topic: topics[i]})
	}
	lease, dead, released := takeLease(t, r, node, time.Hour), takeLease(t, r, node+"dead", time.Hour), takeLease(t, r, node+"released", time.Hour)
	if _, err := r.KeepAlive(t.Context(), nodeOfLease(dead), 0); err != nil {
		t.Fatal(err)
	}
	entry := herald.Entry{Session: herald.Session{ID: node + ".1", User: node}, UserTopic: topics[0], Topics: topics[1:]}
	mustAdd(t, r, lease, entry)
	return map[string]func(context.Context) error{
		"Add":      func(ctx context.Context) error { _, err := r.Add(ctx, lease, entry); return err },
		"Remove":   func(ctx context.Context) error { return r.Remove(ctx, lease, entry) },
		"Sessions": func(ctx context.Context) error { _, err := r.Sessions(ctx, lease, topics...); return err },
		"Online":   func(ctx context.Context) error { _, err := r.Online(ctx, lease, topics...); return err },
		"Check":    func(ctx context.Context) error { _, err := r.Check(ctx, lease, entry); return err },
		"KeepAlive of a new lease": func(ctx context.Context) error {
			_, err := r.KeepAlive(ctx, herald.Node{ID: node + "new"}, time.Hour)
			return err
		},
		"KeepAlive": func(ctx context.Context) error {
			_, err := r.KeepAlive(ctx, nodeOfLease(lease), time.Hour)
			return err
		},
		"Release": func(ctx context.Context) error { return r.Release(ctx, released) },
		"Nodes":   func(ctx context.Context) error { _, _, err := r.Nodes(ctx); return err },
		"Sweep":   func(ctx context.Context) error { return r.Sweep(ctx, dead) },
		"Offline": func(ctx context.Context) error {
			for { // users of some shards are returned before the error of another
				users, err := r.Offline(ctx, 0)
				if len(users) == 0 {
					return err
				}
			}
		},
		"Entries":     func(ctx context.Context) error { _, _, err := r.Entries(ctx, lease, ""); return err },
		"Publish":     func(ctx context.Context) error { return bus.Publish(ctx, packets...) },
		"Subscribe":   func(ctx context.Context) error { return bus.Subscribe(ctx, topics...) },
		"Unsubscribe": func(ctx context.Context) error { return bus.Unsubscribe(ctx, topics...) },
	}
}

// Clients without a password are told too if Redis accepts no more connections,
// although no answer to a login would stop them.
func TestRedisTakesNoMoreConnections(t *testing.T) {
	server := redistest.Start(t)
	admin := server.Client()
	if err := admin.ConfigSet(t.Context(), "maxclients", "1").Err(); err != nil {
		t.Fatal(err)
	}
	for _, options := range []redis.Options{
		{Addr: server.Addr},
		{Addr: server.Addr, DisableIdentity: true},
		{Addr: server.Addr, DB: 1},
		{Addr: server.Addr, Password: "secret", Protocol: 2},
	} {
		_, err := herald.NewRedisBus(registryClient(t, options), nil)
		if !errors.Is(err, herald.ErrBusDown) || !strings.Contains(err.Error(), "max number of clients") {
			t.Errorf("%+v: the Bus says %v", options, err)
		}
		_, err = herald.NewRedisRegistry(registryClient(t, options), nil)
		if !errors.Is(err, herald.ErrRegistryDown) || !strings.Contains(err.Error(), "max number of clients") {
			t.Errorf("%+v: the Registry says %v", options, err)
		}
	}
}
