package hubtest

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/test/redistest"
)

// Under load, one master of a Cluster refuses logins for a while, or shows a
// certificate that nobody trusts. Each Bus says so, and all losses lie in reported
// gaps.
func TestRedisClusterRefusal(t *testing.T) {
	t.Run("login", func(t *testing.T) {
		t.Parallel()
		testRefusal(t, "WRONGPASS", func(master *redis.Client, _ *atomic.Bool) { do(t, master, "ACL SETUSER app resetpass >new") },
			func(master *redis.Client, _ *atomic.Bool) { do(t, master, appRules) })
	})
	t.Run("certificate", func(t *testing.T) {
		t.Parallel()
		testRefusal(t, "x509", func(_ *redis.Client, strange *atomic.Bool) { strange.Store(true) },
			func(_ *redis.Client, strange *atomic.Bool) { strange.Store(false) })
	})
}

const appRules = "ACL SETUSER app reset on >old ~* &* +@all"

func do(t *testing.T, server *redis.Client, command string) {
	t.Helper()
	var args []any
	for word := range strings.FieldsSeq(command) {
		args = append(args, word)
	}
	if err := server.Do(context.Background(), args...).Err(); err != nil {
		t.Errorf("%s: %v", command, err)
	}
}

// testRefusal begins and ends a refusal at one of three masters. Each Bus must give
// the reason.
func testRefusal(t *testing.T, reason string, begin, end func(master *redis.Client, strange *atomic.Bool)) {
	cluster := redistest.StartCluster(t, 3, 0, redistest.NeverFailed...)
	for _, n := range cluster.Nodes {
		do(t, n.Admin(), appRules)
	}
	master := cluster.Nodes[1]
	stranger := httptest.NewUnstartedServer(nil)
	stranger.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	stranger.StartTLS()
	t.Cleanup(stranger.Close)
	var strange atomic.Bool
	client := redis.NewClusterClient(&redis.ClusterOptions{
		Addrs: cluster.Addrs(), Username: "app", Password: "old",
		Dialer: func(ctx context.Context, network, addr string) (net.Conn, error) {
			if addr == master.Addr && strange.Load() {
				return (&tls.Dialer{}).DialContext(ctx, network, stranger.Listener.Addr().String())
			}
			return (&net.Dialer{}).DialContext(ctx, network, addr)
		},
	})
	t.Cleanup(func() { client.Close() })

	var mu sync.Mutex
	var buses []herald.Bus
	broker := clusterBroker(cluster, func() {
		begin(master.Admin(), &strange)
		do(t, master.Admin(), "CLIENT KILL USER app")
		mu.Lock()
		defer mu.Unlock()
		for i, bus := range buses {
			awaitReason(t, fmt.Sprint("bus ", i), bus, reason)
		}
		end(master.Admin(), &strange)
	})
	broker.NewRegistry = func() (herald.Registry, error) { return herald.NewRedisRegistry(client, nil) }
	broker.NewBus = func() (herald.Bus, error) {
		bus, err := herald.NewRedisBus(client, nil)
		if err == nil {
			mu.Lock()
			buses = append(buses, bus)
			mu.Unlock()
		}
		return bus, err
	}
	testRestart(t, broker)
}

// awaitReason waits until the Bus is unhealthy for this reason.
func awaitReason(t *testing.T, name string, bus herald.Bus, reason string) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if err = bus.Health(); err != nil && strings.Contains(err.Error(), reason) {
			return
		}
	}
	t.Errorf("%s: its health is %v, and does not say %q", name, err, reason)
}
