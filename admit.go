package herald

import (
	"context"
	"slices"
)

// An AdmitFunc decides about a new connection, knowing the user's older
// ones, on all nodes. Older has them, oldest first, but no more than 1,000; total is
// how many there are. Those that it returns in evict are closed with
// StatusReplaced. If it evicts all that it was given, and there are more, it is asked
// again with these. An error refuses the new connection, with the code of a
// [CloseError] in its chain or 1008. The slice older is the callee's.
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
