package redisbus

import (
	"testing"
)

func TestMovedTo(t *testing.T) {
	for _, test := range []struct{ said, from, want string }{
		{"MOVED 1 10.0.0.2:6379", "10.0.0.1:6379", "10.0.0.2:6379"},
		{"MOVED 1 ::1:6379", "[::1]:6378", "[::1]:6379"},
		{"MOVED 1 node-2:6379", "10.0.0.1:6379", "node-2:6379"},
		{"MOVED 1 :6379", "10.0.0.1:6378", "10.0.0.1:6379"},
		{"MOVED 1 ?:6379", "10.0.0.1:6378", "10.0.0.1:6379"},
		{"MOVED 1 10.0.0.2:0", "10.0.0.1:6379", "10.0.0.2:6379"},
		{"MOVED 1 127.0.0.1:6379", "10.0.0.1:6378", "10.0.0.1:6379"},
		{"MOVED 1 127.0.0.1:6379", "127.0.0.1:6378", "127.0.0.1:6379"},
		{"MOVED 1 127.0.0.1:6379", "", "127.0.0.1:6379"},
		{"MOVED 1", "10.0.0.1:6379", ""},
		{"MOVED 1 nowhere", "10.0.0.1:6379", ""},
		{"ASK 1 10.0.0.2:6379", "10.0.0.1:6379", ""},
		{"CLUSTERDOWN The cluster is down", "10.0.0.1:6379", ""},
	} {
		if got := movedTo(test.said, test.from); got != test.want {
			t.Errorf("%q from %s: got %q, want %q", test.said, test.from, got, test.want)
		}
	}
}
