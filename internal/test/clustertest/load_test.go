package clustertest

import (
	"context"
	"sync"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/test/load"
)

// A record is one call of Send. A gap is one that a node has reported.
type (
	record = load.Record
	gap    = load.Gap
)

// Every user has three devices.

func userName(i int) string { return load.UserName(i) }

func groupsOf(user, users int) []string { return load.Groups(user, users) }

// loads are the loads that a node is sending.
type loads struct {
	mu       sync.Mutex
	stopping chan struct{} // closed to end a load without a count
}

// run sends as o says, and returns the records of each sender.
func (l *loads) run(ctx context.Context, hub *herald.Hub, o load.Order) map[string][]record {
	stopping := make(chan struct{})
	if o.Count == 0 {
		l.mu.Lock()
		l.stopping = stopping
		l.mu.Unlock()
	}
	return o.Run(ctx, hub, stopping)
}

func (l *loads) stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.stopping)
}
