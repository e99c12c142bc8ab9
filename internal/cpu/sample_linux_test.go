package cpu

import (
	"path"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"
)

func TestIdle(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"27056.24 7660.03\n": 7660*time.Second + 30*time.Millisecond,
		"1.00 0.00\n":        0,
		"27056.24\n":         0,
		"":                   0,
		"a b":                0,
		"1.00 2.00 3.00":     0,
	} {
		if got := idle([]byte(text)); got.Round(time.Microsecond) != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}

// The quota is that of the process' own cgroup, if that can be found.
func TestQuota(t *testing.T) {
	const v1 = "4:cpu,cpuacct:/app\n1:name=systemd:/app\n"
	for _, test := range []struct {
		cgroup, at, max string
		want            float64
	}{
		{"0::/\n", "", "150000 100000\n", 1.5},
		{"0::/\n", "", "50000 100000\n", 0.5},
		{"0::/\n", "", "max 100000\n", 0},
		{"0::/system.slice/app.service\n", "system.slice/app.service/", "200000 50000\n", 4},
		{v1 + "0::/app\n", "app/", "20000 100000", 0.2},
		{v1, "app/", "20000 100000\n", 0},
		{"0::/app\n", "", "20000 100000\n", 0},
		{"0::/../app\n", "", "20000 100000\n", 0},
		{"0::/\n", "", "", 0},
		{"0::/\n", "", "100000\n", 0},
		{"0::/\n", "", "100000 0\n", 0},
		{"0::/\n", "", "-1 100000\n", 0},
		{"", "", "50000 100000\n", 0},
	} {
		root := fstest.MapFS{
			"proc/self/cgroup": {Data: []byte(test.cgroup)},
			path.Join("sys/fs/cgroup", test.at, "cpu.max"): {Data: []byte(test.max)},
		}
		if got := quota(root); got != test.want {
			t.Errorf("%q, %q in %q: %v", test.cgroup, test.max, test.at, got)
		}
	}
	if got := quota(fstest.MapFS{}); got != 0 {
		t.Errorf("of nothing: %v", got)
	}
}

// A gauge measures once a window, and a load that begins is seen.
func TestBusy(t *testing.T) {
	var g Gauge
	if g.Busy() {
		t.Error("busy before anything was measured")
	}
	first := g.last
	if first.idle == 0 || first.used == 0 {
		t.Fatalf("nothing was read: %+v", first)
	}
	if g.Busy(); g.last != first {
		t.Error("measured twice within a window")
	}
	var stop atomic.Bool
	var working sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		working.Go(func() {
			for !stop.Load() {
			}
		})
	}
	defer working.Wait()
	defer stop.Store(true)
	for !g.Busy() { // or the test's deadline
		time.Sleep(window / 8)
	}
}

func BenchmarkTake(b *testing.B) {
	now := time.Now()
	for b.Loop() {
		take(now)
	}
}
