// Package attacktest attacks a node from outside, with nothing but raw sockets. The
// node and the attackers run in processes of their own. So the node's cost can be
// measured from outside, and the honest clients, which are in the test's process,
// do not wait for the attackers' goroutines.
//
//	HERALD_ATTACK=3s go test -v -run TestEachAttack ./internal/test/attacktest   # a row for each attack
//	HERALD_ATTACK=1m go test -v -run TestAllAttacks ./internal/test/attacktest   # all at once, beside 200 honest clients
package attacktest

import (
	"encoding/json"
	"fmt"
	"os"
	"testing"
	"time"
)

// role is the environment variable that makes the test binary a node or the
// attackers.
const role = "HERALD_ATTACKTEST_ROLE"

// An order tells such a process at its start what to do.
type order struct {
	Attacks []string // the names for attackers; empty for a node
	Addr    string   // the node that attackers attack
	Gentle  bool     // for CI: a tenth of the connections, and pauses

	Redis   string // the node's Redis
	Setting setting
}

// A setting is the part of a node's Config that differs from the defaults.
type setting struct {
	RejectAfterUpgrade bool
	Compression        bool
}

func TestMain(m *testing.M) {
	env := os.Getenv(role)
	if env == "" {
		os.Exit(m.Run())
	}
	var o order
	err := json.Unmarshal([]byte(env), &o)
	switch {
	case err != nil:
	case len(o.Attacks) == 0:
		err = runNode(o)
	default:
		err = runAttackers(o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// patience is how long the tests wait for something that must happen.
const patience = 30 * time.Second

// duration returns how long attacks last, and whether HERALD_ATTACK is set.
func duration(t *testing.T) (time.Duration, bool) {
	s := os.Getenv("HERALD_ATTACK")
	if s == "" {
		return 3 * time.Second, false
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		t.Fatalf("HERALD_ATTACK: %v", err)
	}
	return d, true
}
