package historymodel

import (
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"
)

// seedEnv runs one seed alone, and runsEnv says how many are run otherwise.
const (
	seedEnv = "HERALD_HISTORY_SEED"
	runsEnv = "HERALD_HISTORY_RUNS"
)

func runs(t *testing.T, otherwise int) int {
	t.Helper()
	text := os.Getenv(runsEnv)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", runsEnv, err)
	}
	return n
}

// find runs plans until one of them finds a fault.
func find(t *testing.T, n int, hits *counts, calm bool) {
	if text := os.Getenv(seedEnv); text != "" {
		seed, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatalf("%s: %v", seedEnv, err)
		}
		if p := newPlan(seed, calm); p.run(hits) != "" {
			t.Fatal(p.report())
		}
		return
	}
	for seed := range uint64(n) {
		if p := newPlan(seed, calm); p.run(hits) != "" {
			t.Fatalf("%s again: %s=%d go test -run %s", p.report(), seedEnv, seed, t.Name())
		}
	}
}

// Whatever happens, a device gets every message once and in order, or is told that
// it may have missed some.
func TestModel(t *testing.T) {
	if os.Getenv(mutantEnv) != "" {
		findMutant(runs(t, 10_000))
		return
	}
	var hits counts
	begin, n := time.Now(), runs(t, 10_000)
	find(t, n, &hits, false)
	fmt.Printf("%d runs, %.0f a second\n", n, float64(n)/time.Since(begin).Seconds())
	for r, n := range hits {
		t.Logf("%8d  %s", n, ruleNames[r])
		if n == 0 && os.Getenv(seedEnv) == "" {
			t.Errorf("no run met this: %s", ruleNames[r])
		}
	}
}

// findMutant reports after how many runs a mutant is found.
func findMutant(n int) {
	for seed := range uint64(n) {
		if finding := newPlan(seed, false).run(new(counts)); finding != "" {
			fmt.Printf("found after %d runs: %s\n", seed+1, finding)
			return
		}
	}
}

// Clients and nodes come and go and links break, but the log loses nothing. Nobody
// is told that anything may be missing.
func TestCalm(t *testing.T) {
	find(t, runs(t, 2_000), new(counts), true)
}
