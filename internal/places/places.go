// Package places says where an entry of a Registry lies: once under each of its
// topics.
package places

import (
	"cmp"
	"slices"
)

// A Place is where one session lies under one topic.
type Place struct {
	ID    string // the session's
	Topic string
	User  bool // the topic is the session's user's
}

// Of returns the places of an entry, that of the user's topic first.
func Of(id, userTopic string, topics []string) []Place {
	all := make([]Place, 0, 1+len(topics))
	if userTopic != "" {
		all = append(all, Place{id, userTopic, true})
	}
	for _, topic := range topics {
		if userTopic == "" || topic != userTopic {
			all = append(all, Place{id, topic, false})
		}
	}
	return all
}

// Topics is the opposite of Of: it returns the topics of the places of one session.
func Topics(all []Place) (userTopic string, topics []string) {
	for _, p := range all {
		if p.User {
			userTopic = p.Topic
		} else {
			topics = append(topics, p.Topic)
		}
	}
	return userTopic, topics
}

// Sort orders places by id, then by topic, and removes duplicates. It changes all.
func Sort(all []Place) []Place {
	slices.SortFunc(all, func(a, b Place) int {
		c := cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.Topic, b.Topic))
		switch {
		case c != 0 || a.User == b.User:
			return c
		case a.User:
			return -1
		}
		return 1
	})
	return slices.Compact(all)
}
