package redisconn_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/test/redistest"
	"github.com/heraldgo/herald/internal/test/servertest"
)

// opened returns the errors of all that takes a client.
func opened(client redis.UniversalClient) map[string]error {
	errs := make(map[string]error)
	bus, err := herald.NewRedisBus(client, nil)
	if errs["NewRedisBus"] = err; err == nil {
		bus.Close()
	}
	registry, err := herald.NewRedisRegistry(client, nil)
	if errs["NewRedisRegistry"] = err; err == nil {
		registry.Close()
	}
	hub, err := herald.New(herald.Config{Redis: client})
	if errs["New"] = err; err == nil {
		hub.Shutdown(context.Background())
	}
	return errs
}

// A name that the Sentinels do not know is told as that.
func TestRedisWrongMasterName(t *testing.T) {
	set := redistest.StartSentinels(t)
	client := redis.NewFailoverClient(&redis.FailoverOptions{MasterName: "wrong", SentinelAddrs: set.Addrs()})
	defer client.Close()
	for name, err := range opened(client) {
		t.Logf("%s: %v", name, err)
		if err == nil || !strings.Contains(err.Error(), "MasterName") || strings.Contains(err.Error(), "redis: nil") {
			t.Errorf("%s: %v", name, err)
		}
		if !errors.Is(err, herald.ErrBusDown) && !errors.Is(err, herald.ErrRegistryDown) {
			t.Errorf("%s: %v: is not down", name, err)
		}
	}
}

// A client of one server that leads to a node of a Cluster, whichever that is.
func TestRedisPlainClientOnCluster(t *testing.T) {
	cluster := redistest.StartCluster(t, 3, 0)
	moved := 0
	for _, n := range cluster.Nodes {
		for name, err := range opened(n.Client()) {
			t.Logf("%s: %v", name, err)
			if name == "NewRedisRegistry" && err == nil { // all that it has is on this node
				continue
			}
			moved++
			if !errors.Is(err, herald.ErrInvalid) || !strings.Contains(err.Error(), "*redis.ClusterClient") || errors.Is(err, herald.ErrRegistryDown) || errors.Is(err, herald.ErrBusDown) {
				t.Errorf("%s: %v, want ErrInvalid that names the ClusterClient", name, err)
			}
		}
	}
	if moved != 8 {
		t.Errorf("%d errors of 9, want 8", moved)
	}
	// One node that has all slots is as good as one server.
	one := redistest.StartCluster(t, 1, 0)
	for name, err := range opened(one.Nodes[0].Client()) {
		if err != nil {
			t.Errorf("%s of the only node: %v", name, err)
		}
	}
}

func TestNewNamesItsRedis(t *testing.T) {
	client := redis.NewClient(&redis.Options{Addr: servertest.FreeAddr(t)})
	defer client.Close()
	if _, err := herald.New(herald.Config{Redis: client}); err == nil || !strings.HasPrefix(err.Error(), "Config.Redis: ") {
		t.Errorf("nobody listens: %v", err)
	}
}

// A server, or a proxy, that lacks what the Bus needs is not down: who waits for
// it would wait for ever.
func TestRedisLacksCommands(t *testing.T) {
	for _, command := range []string{"SUBSCRIBE", "PUBLISH"} {
		server := redistest.Start(t, "--rename-command", command, "")
		_, err := herald.NewRedisBus(server.Client(), nil)
		t.Log(err)
		if err == nil || errors.Is(err, herald.ErrBusDown) || !strings.Contains(err.Error(), "unknown command '"+command) {
			t.Errorf("without %s: %v", command, err)
		}
	}
}
