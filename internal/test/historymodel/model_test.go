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

// Whatever happens, a device has every message once and in order, or it was
// told.
func TestModel(t *testing.T) {
	if text := os.Getenv(seedEnv); text != "" {
		seed, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatalf("%s: %v", seedEnv, err)
		}
		if run(plan(seed, false), new(Hits), false) != "" {
			t.Fatal(report(seed, false))
		}
		return
	}
	if os.Getenv(mutantEnv) != "" {
		findMutant(runs(t, 10_000))
		return
	}
	var hits Hits
	begin, n := time.Now(), runs(t, 10_000)
	for seed := range uint64(n) {
		if run(plan(seed, false), &hits, false) != "" {
			t.Fatalf("%s again: %s=%d go test -run TestModel", report(seed, false), seedEnv, seed)
		}
	}
	fmt.Printf("%d runs, %.0f a second\n", n, float64(n)/time.Since(begin).Seconds())
	for r, n := range hits {
		t.Logf("%8d  %s", n, ruleNames[r])
		if n == 0 {
			t.Errorf("no run met this: %s", ruleNames[r])
		}
	}
}

// findMutant says after how many runs a mutant is found.
func findMutant(n int) {
	for seed := range uint64(n) {
		if finding := run(plan(seed, false), new(Hits), false); finding != "" {
			fmt.Printf("found after %d runs: %s\n", seed+1, finding)
			return
		}
	}
}

// Clients and nodes come and go, links break, and the log loses nothing: nobody
// is told that anything may be missing.
func TestCalm(t *testing.T) {
	for seed := range uint64(runs(t, 2_000)) {
		if run(plan(seed, true), new(Hits), true) != "" {
			t.Fatal(report(seed, true))
		}
	}
}
