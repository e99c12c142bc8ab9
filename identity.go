package herald

import (
	"fmt"
	"slices"
	"strings"
)

// maxGroupName is the most bytes of a group's name, which each node keeps that
// has a member.
const maxGroupName = 1 << 10

// checkIdentity returns which rule what Authenticate returned breaks.
func (c *Config) checkIdentity(id Identity) error {
	size := len(id.User) + len(id.Device) + len(id.Platform)
	for key, value := range id.Meta {
		size += len(key) + len(value)
	}
	if c.MaxIdentitySize > 0 && size > c.MaxIdentitySize {
		return fmt.Errorf("User (%d), Device (%d), Platform (%d) and Meta (%d) have %d bytes: must be at most MaxIdentitySize (%d)",
			len(id.User), len(id.Device), len(id.Platform), size-len(id.User)-len(id.Device)-len(id.Platform), size, c.MaxIdentitySize)
	}
	if err := checkGroups(id.Groups); err != nil {
		return err
	}
	if c.MaxGroups < 1 || len(id.Groups) <= c.MaxGroups {
		return nil
	}
	distinct := make(map[string]bool)
	for _, g := range id.Groups {
		distinct[g] = true
	}
	if len(distinct) > c.MaxGroups {
		return fmt.Errorf("Groups has %d: must be at most MaxGroups (%d)", len(distinct), c.MaxGroups)
	}
	return nil
}

// clone returns a copy of the Identity that shares nothing with id: its
// strings may be parts of the request, which would stay in memory as a whole.
// In the copy each group is there once.
func (id Identity) clone() Identity {
	id.User = strings.Clone(id.User)
	id.Device = strings.Clone(id.Device)
	id.Platform = strings.Clone(id.Platform)
	id.Groups = slices.Compact(slices.Sorted(slices.Values(id.Groups)))
	for i, g := range id.Groups {
		id.Groups[i] = strings.Clone(g)
	}
	if meta := id.Meta; meta != nil {
		id.Meta = make(map[string]string, len(meta))
		for key, value := range meta {
			id.Meta[strings.Clone(key)] = strings.Clone(value)
		}
	}
	return id
}

// joinFirst makes a new Conn, whose topics are followed, a member of its
// Identity's groups. It may have been closed by now, or have joined.
func (h *Hub) joinFirst(c *Conn) {
	joined, _ := h.index.joinGroups(c, c.identity.Groups, 0)
	if len(joined) == len(c.identity.Groups) {
		return
	}
	has := make(map[string]bool, len(joined))
	for _, t := range joined {
		has[t] = true
	}
	h.follower.Unfollow(slices.DeleteFunc(groupTopics(c.identity.Groups), func(t string) bool { return has[t] })...)
}
