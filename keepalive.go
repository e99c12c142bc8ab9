package herald

import (
	"context"
	"time"

	"github.com/heraldgo/herald/internal/clock"
)

// keepalive walks over all Conns, a slice at a time, and looks at each Conn's
// clocks: no Conn has a timer or a goroutine for them.
func (h *Hub) keepalive(ctx context.Context) {
	config := &h.config
	every := time.Second
	for _, d := range []time.Duration{config.PingInterval, config.PongTimeout, config.MessageTimeout} {
		every = min(every, max(d/4, 5*time.Millisecond))
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	var conns []*Conn
	walked := clock.Now()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		// A process that was paused has not read what its peers sent.
		paused := clock.Now()-walked > 4*int64(every)
		walked = clock.Now()
		for i := 0; ; i += len(conns) {
			clear(conns)
			if conns = h.index.appendSlice(conns[:0], i, 1024); len(conns) == 0 {
				break
			}
			now, wall := clock.Now(), time.Now().UnixNano()
			for _, c := range conns {
				c.tick(now, wall, paused)
			}
		}
	}
}

// tick looks at the Conn's clocks. After a pause nobody is found silent.
func (c *Conn) tick(now, wall int64, paused bool) {
	config := &c.hub.config
	if expires := c.expires.Load(); expires != 0 && wall >= expires {
		c.shut(&CloseError{Code: StatusExpired, Reason: "expired"})
		return
	}
	last := c.socket.lastRead.Load()
	if last == 0 { // nobody reads yet: OnConnect runs
		return
	}
	if since := c.reading.Load(); since != 0 && config.MessageTimeout != off && now-since > int64(config.MessageTimeout) {
		c.shut(&CloseError{Code: StatusPolicyViolation, Reason: "message took too long"})
		return
	}
	if config.PingInterval == off {
		return
	}
	switch pinged := c.pinged.Load(); {
	case last == inCallback || now-last < int64(config.PingInterval):
		c.pinged.Store(0)
	case pinged == 0 || paused:
		c.pinged.Store(now)
		c.ping()
	case now-pinged > int64(config.PongTimeout):
		c.hub.stats.silent.Add(1)
		c.kill(ErrSilent)
	}
}
