package resumetest_test

import (
	"os"
	"slices"
	"testing"
	"time"

	"github.com/heraldgo/herald/internal/test/faultrig"
)

func TestMain(m *testing.M) {
	faultrig.Main(nil)
	os.Exit(m.Run())
}

// Everything between nodes with a Retention and devices that come back fails in
// turn. No device misses a message without being told, and none gets a message
// twice or out of order. Command test/faults has more devices and faults, and
// clients in browsers.
func TestFaults(t *testing.T) {
	long := []string{
		"every client cut for 5 s", "10% of clients stalled", "5,000 back at once, 20 missed each",
		"200,000 messages at full speed", "rolling restart of 5 nodes", "all links cut",
		"upgrade from nodes without a Retention",
	}
	for _, f := range faultrig.Faults(faultrig.Redis) {
		if slices.Contains(long, f.Name) {
			continue
		}
		t.Run(f.Name, func(t *testing.T) {
			t.Parallel()
			tryFault(t, f, faultrig.Redis)
		})
	}
}

// The same happens on a Cluster, whose partitions fail one by one.
func TestFaultsOnCluster(t *testing.T) {
	short := []string{"client cuts", "master killed", "slot moved", "move of a slot aborted"}
	for _, f := range faultrig.Faults(faultrig.Cluster) {
		if slices.Contains(short, f.Name) {
			t.Run(f.Name, func(t *testing.T) {
				t.Parallel()
				tryFault(t, f, faultrig.Cluster)
			})
		}
	}
}

func tryFault(t *testing.T, f faultrig.Fault, bus string) {
	v := faultrig.Run(t, f, faultrig.Options{
		Bus: bus, Retention: true, Nodes: 3, Users: 8, Pace: 100 * time.Millisecond,
	})
	for i, text := range v.Broken {
		if t.Error(text); i == 9 {
			t.Errorf("and %d more", len(v.Broken)-10)
			break
		}
	}
	if f.Survives && v.Told > 0 {
		t.Errorf("%d messages are missing, and the data survived", v.Told)
	}
	t.Logf("%+v", v)
}
