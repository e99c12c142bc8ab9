// Package attacktest attacks a node from outside, as its clients can: by the
// public API and raw sockets alone. The node and the attackers are processes of
// their own, so that what an attack costs the node can be read from outside, and
// that honest clients, which are in the test's process, do not wait for the
// attackers' turns.
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

// role is the variable that makes the test binary a node or attackers.
const role = "HERALD_ATTACKTEST_ROLE"

// An order is what such a process is told at its start.
type order struct {
	Attacks []string // the attackers'; none is a node
	Addr    string   // of what they attack
	Gentle  bool     // for CI: a tenth of the connections, and rests

	Redis   string // the node's
	Setting setting
}

// A setting is what a node's Config has that is no default.
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

// patience is how long the tests wait for what must come.
const patience = 30 * time.Second

// duration returns how long attacks are to take, and whether somebody asked.
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
