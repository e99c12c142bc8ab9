package herald

import (
	"context"
	"slices"
)

// An AdmitFunc decides about a new connection, s, knowing the older ones of its
// user, on all nodes.
//
//  1. older has the older connections, oldest first, but no more than 1,000;
//     total is how many there are.
//  2. The callee owns older and the Meta of each Session: it may change, keep
//     or return them.
//  3. Those that it returns in evict are closed with StatusReplaced. If they are
//     all of older, and there are more, it is asked again about the rest.
//  4. An error refuses the new connection, with the code of a [CloseError] in
//     its chain or 1008. Then evict does not count.
//  5. It is called for several connections at the same time.
//
// [AdmitAll] combines several.
type AdmitFunc func(ctx context.Context, s Session, older []Session, total int) (evict []Session, err error)

// maxOlder is the most older Sessions that an AdmitFunc gets at once.
const maxOlder = 1_000

// MaxPerUser lets a user have n connections, on all nodes together: the
// newest stay, older ones are closed with StatusReplaced. An n below 1 is 1.
func MaxPerUser(n int) AdmitFunc {
	return func(_ context.Context, _ Session, older []Session, total int) ([]Session, error) {
		return older[:max(0, min(len(older), total+1-max(n, 1)))], nil
	}
}

// AdmitAll asks one AdmitFunc after the other, each about the connections that
// those before it leave. Whom any of them evicts is evicted; the first error
// refuses the new connection. AdmitAll of none admits everybody.
//
//	Admit: herald.AdmitAll(herald.OnePerDevice(), herald.MaxPerUser(5))
func AdmitAll(all ...AdmitFunc) AdmitFunc {
	return func(ctx context.Context, s Session, older []Session, total int) ([]Session, error) {
		var evict []Session
		for _, admit := range all {
			named, err := admit(ctx, s, slices.Clone(older), total)
			if err != nil {
				return nil, err
			}
			evict = append(evict, named...)
			gone := make(map[string]bool, len(named))
			for _, e := range named {
				gone[e.ID] = true
			}
			n := len(older)
			older = slices.DeleteFunc(older, func(o Session) bool { return gone[o.ID] })
			total -= n - len(older)
		}
		return evict, nil
	}
}

// OnePerPlatform lets a user have one connection on each platform, on all
// nodes together: the newest.
func OnePerPlatform() AdmitFunc {
	return func(_ context.Context, s Session, older []Session, _ int) ([]Session, error) {
		return slices.DeleteFunc(older, func(o Session) bool { return o.Platform != s.Platform }), nil
	}
}

// OnePerDevice lets a user have one connection on each device, on all nodes
// together: the newest. Connections without a device are left alone.
func OnePerDevice() AdmitFunc {
	return func(_ context.Context, s Session, older []Session, _ int) ([]Session, error) {
		return slices.DeleteFunc(older, func(o Session) bool { return s.Device == "" || o.Device != s.Device }), nil
	}
}
