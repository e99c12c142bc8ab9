package docs_test

import (
	"fmt"
	"math"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// figures returns herald's figures of bench/RESULTS.md, by their names.
func figures(t *testing.T) map[string]float64 {
	t.Helper()
	b, err := os.ReadFile("../bench/RESULTS.md")
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string]float64)
	for _, m := range regexp.MustCompile(`(?m)^\| ([^|]+) \| ([0-9.]+) \|`).FindAllStringSubmatch(string(b), -1) {
		if found[m[1]], err = strconv.ParseFloat(m[2], 64); err != nil {
			t.Fatal(err)
		}
	}
	return found
}

// The figures of sizing.md are those of bench/RESULTS.md, and its table follows from them
// by its formula.
func TestSizing(t *testing.T) {
	page, err := os.ReadFile("sizing.md")
	if err != nil {
		t.Fatal(err)
	}
	measured := figures(t)
	figure := func(name string) float64 {
		value := measured[name]
		if value == 0 || !strings.Contains(string(page), fmt.Sprintf("| %s | %v |", name, value)) {
			t.Errorf("the page lacks %q, which is %v", name, value)
		}
		return value
	}
	memory := figure("resident memory a connection, idle, KB")
	delivery := figure("CPU a delivery at 16 nodes, µs")
	storm := figure("CPU a connection, 5,000 in a storm, µs")
	figure("CPU a delivery at 2 nodes, µs")
	figure("CPU a delivery, broadcasts in bursts, µs")
	figure("CPU a delivery over TLS, sends to users, µs")
	figure("CPU of Redis a message to a user, µs")

	number := func(cell string) float64 {
		n, err := strconv.ParseFloat(strings.ReplaceAll(strings.Fields(cell)[0], ",", ""), 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	rows := regexp.MustCompile(`(?m)^\| ([0-9,]+) \| ([0-9,]+) \| ([0-9.]+ GB) \| ([0-9.]+) \| ([0-9.]+) \|$`).FindAllStringSubmatch(string(page), -1)
	if len(rows) < 4 {
		t.Fatalf("the table has %d rows", len(rows))
	}
	for _, row := range rows {
		connections, deliveries := number(row[1]), number(row[2])
		for i, want := range []float64{connections * memory / 1e6, deliveries * delivery / 1e6, connections / 30 * storm / 1e6} {
			if got := number(row[3+i]); math.Abs(got-want) > max(0.006, want*0.06) {
				t.Errorf("%s connections: %v, want %.3g", row[1], row[3+i], want)
			}
		}
	}
}
