package herald

import (
	"context"
	"slices"
)

// MaxPerUser is an Admit that lets a user have n connections, on all nodes
// together: the newest stay, older ones are closed with StatusReplaced. An n
// below 1 is 1.
func MaxPerUser(n int) func(context.Context, Session, []Session) ([]Session, error) {
	return func(_ context.Context, _ Session, older []Session) ([]Session, error) {
		return older[:max(0, min(len(older), len(older)-n+1))], nil
	}
}

// OnePerPlatform is an Admit that lets a user have one connection on each
// platform, on all nodes together: the newest.
func OnePerPlatform() func(context.Context, Session, []Session) ([]Session, error) {
	return func(_ context.Context, s Session, older []Session) ([]Session, error) {
		return slices.DeleteFunc(older, func(o Session) bool { return o.Platform != s.Platform }), nil
	}
}

// OnePerDevice is an Admit that lets a user have one connection on each
// device, on all nodes together: the newest. Connections without a device
// are left alone.
func OnePerDevice() func(context.Context, Session, []Session) ([]Session, error) {
	return func(_ context.Context, s Session, older []Session) ([]Session, error) {
		return slices.DeleteFunc(older, func(o Session) bool { return s.Device == "" || o.Device != s.Device }), nil
	}
}
