package herald

import (
	"slices"
	"strings"
)

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
