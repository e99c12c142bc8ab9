package herald

import "log/slog"

// tellRefused tells of nodes whose records cannot be understood: of each once,
// and of one in the name of all that have come since it looked last.
func (k *housekeeping) tellRefused(nodes []Node) {
	refused := make(map[string]bool)
	var one Node
	fresh := 0
	for _, n := range nodes {
		if n.Err == nil {
			continue
		}
		refused[n.ID] = true
		if !k.refused[n.ID] {
			one = n
			fresh++
		}
	}
	k.refused = refused
	if fresh > 0 {
		k.p.config.Logger.Warn("herald: a node in the Registry cannot be understood, and counts as dead",
			slog.String("node", one.ID[:min(len(one.ID), 128)]), slog.Any("err", one.Err), slog.Int("nodes", fresh))
	}
}

// tellStrays tells of the first stray, and of the next after a lease without one.
// What was in a key that was taken away is put back soon.
func (k *housekeeping) tellStrays() {
	r, ok := k.p.reg.(*RedisRegistry)
	if !ok {
		return
	}
	n, last := r.unreadable()
	if n == k.strays {
		k.straying = max(0, k.straying-1)
		return
	}
	k.strays = n
	if k.straying == 0 {
		k.p.doubt()
		k.p.config.Logger.Warn("herald: somebody else writes under the Prefix in Redis: what cannot be understood is passed over, and keys of a wrong type are deleted", slog.String("key", last), slog.Uint64("times", n))
	}
	k.straying = 3 // thirds of a lease
}
