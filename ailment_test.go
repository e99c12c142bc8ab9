package herald

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A Registry that renews leases and fails otherwise turns Health red, and is
// told of once, be it reading or writing that fails; a short failure does not.
func TestAilingRegistryIsTold(t *testing.T) {
	for _, fails := range []string{"entries", "adds"} {
		t.Run(fails, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log bytes.Buffer
				registry := &moodyRegistry{hookedRegistry: &hookedRegistry{MemoryRegistry: NewMemoryRegistry()}}
				registry.afterAdd = func([]Entry) error {
					if registry.adds.Load() {
						return errMute
					}
					return nil
				}
				r := newPipeRig(t, Config{
					Bus: NewMemoryNetwork().Bus(), Registry: registry, PingInterval: -1,
					Logger: slog.New(slog.NewTextHandler(&log, nil)),
				})
				r.pipe("user=u")
				mood := map[string]*atomic.Bool{"entries": &registry.entries, "adds": &registry.adds}[fails]
				for _, long := range []bool{false, true, true} {
					log.Reset()
					mood.Store(true)
					d := r.config.Lease / 2
					if long {
						d = 5 * r.config.Lease
					}
					for range 20 {
						time.Sleep(d / 20)
						r.presence.sync(r.only(), false)
					}
					if err := r.Health(); long != errors.Is(err, ErrRegistryDown) || long != errors.Is(err, errMute) {
						t.Errorf("after %v: Health: %v", d, err)
					}
					if n := strings.Count(log.String(), "fails otherwise"); n > 1 || long != (n == 1) {
						t.Errorf("after %v it was told of %d times:\n%s", d, n, log.String())
					}
					mood.Store(false)
					time.Sleep(2 * r.config.Lease)
					if err := r.Health(); err != nil {
						t.Errorf("afterwards: Health: %v", err)
					}
				}
			})
		})
	}
}

// A moodyRegistry fails at what it is told to.
type moodyRegistry struct {
	*hookedRegistry
	entries, adds atomic.Bool
}

func (r *moodyRegistry) Entries(ctx context.Context, l Lease, cursor string) ([]Entry, string, error) {
	if r.entries.Load() {
		return nil, "", errMute
	}
	return r.hookedRegistry.Entries(ctx, l, cursor)
}
