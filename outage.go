package herald

import (
	"cmp"
	"context"
	"time"
)

// busError returns why this node cannot publish or follow what it needs,
// or nil. It does not say whether messages may be getting lost.
func (h *Hub) busError() error {
	return blame(ErrBusDown, cmp.Or(h.follower.Failing(), h.heartbeat.failing(), h.bus.Health()))
}

// watchBus tells the log once when the Bus does not do what it should, and once
// when it does again, until ctx is done. If messages may be getting lost, gaps has
// told of that already. A fault that passes by itself within ProbeTimeout is no
// news.
func (h *Hub) watchBus(ctx context.Context) {
	timer := time.NewTicker(max(h.config.ProbeTimeout/4, time.Millisecond))
	defer timer.Stop()
	var since time.Time // when it began; zero is not
	told := false
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		err := h.busError()
		switch {
		case err == nil:
			if told {
				h.config.Logger.Info("herald: the Bus works again")
			}
			since, told = time.Time{}, false
		case told:
		case h.gaps.failing() != nil:
			since = time.Time{}
		case since.IsZero():
			since = time.Now()
		case time.Since(since) >= h.config.ProbeTimeout:
			h.config.Logger.Warn("herald: the Bus does not work", "err", err)
			told = true
		}
	}
}
