package herald

import (
	"crypto/sha256"
	"strings"
)

// A topic's first byte says what it is, so that a user and a group of one
// name never meet. The rest is the name, raw, or its SHA-256 where the name
// is long (upper case).
const (
	topicEveryone  = "*"
	topicHeartbeat = "h"
)

func userTopic(user string) string   { return topicName('u', 'U', user) }
func groupTopic(group string) string { return topicName('g', 'G', group) }
func nodeTopic(node string) string   { return "n" + node }

// maxTopic is the most bytes that a topic on the Bus has.
const maxTopic = 200

func topicName(short, long byte, name string) string {
	if len(name) < maxTopic {
		return string(short) + name
	}
	sum := sha256.Sum256([]byte(name))
	return string(long) + string(sum[:])
}

// nodeOf returns the node of a connection's id, or "" where it is none.
func nodeOf(id string) string {
	i := strings.LastIndexByte(id, '.')
	if i <= 0 || i == len(id)-1 {
		return ""
	}
	return id[:i]
}
