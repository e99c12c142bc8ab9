package herald

import (
	"log/slog"
	"sync"

	"github.com/heraldgo/herald/internal/clock"
)

// ailment is why the Registry fails although the lease can be renewed: a slot
// that is half moved, a command that is denied. It goes on while no lease passes
// without a failure.
type ailment struct {
	mu          sync.Mutex
	first, last int64 // on clock: when it failed; 0 is not
	err         error
	told        bool
}

// ail takes note of a failure, and tells once of those that last for a lease.
func (p *presence) ail(err error) {
	if err == nil || p.health() != nil { // that is told of already
		return
	}
	lease := int64(p.config.Lease)
	a := &p.ailment
	a.mu.Lock()
	now := clock.Now()
	if now-a.last >= lease {
		a.first, a.told = now, false
	}
	a.last, a.err = now, err
	tell := now-a.first >= lease && !a.told
	a.told = a.told || tell
	a.mu.Unlock()
	if tell {
		p.config.Logger.Warn("herald: the Registry renews the lease, and fails otherwise", slog.Any("err", err))
	}
}

// ailing returns an error if the ailment has lasted for a lease.
func (p *presence) ailing() error {
	a := &p.ailment
	a.mu.Lock()
	defer a.mu.Unlock()
	lease := int64(p.config.Lease)
	if a.last == 0 || clock.Now()-a.last >= lease || a.last-a.first < lease {
		return nil
	}
	return a.err
}
