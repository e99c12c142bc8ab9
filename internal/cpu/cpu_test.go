package cpu

import (
	"testing"
	"time"
)

func TestGauge(t *testing.T) {
	for _, step := range []struct {
		name          string
		after         time.Duration
		idle          float64 // of two processors
		used          float64 // of one that the process may use
		quota         float64 // of processors
		known, before bool
		high, want    bool
	}{
		{name: "idle", after: window, idle: 1, known: true},
		{name: "half busy", after: window, idle: 0.5, known: true},
		{name: "just not", after: window, idle: 0.16, known: true, high: true},
		{name: "busy for a moment", after: window, idle: 0.14, known: true},
		{name: "busy", after: window, idle: 0.14, known: true, high: true, want: true},
		{name: "still busy", after: window, idle: 0.29, known: true, before: true, want: true},
		{name: "no longer", after: window, idle: 0.31, known: true, before: true},
		{name: "its share is used up", after: window, idle: 0.9, used: 0.86, known: true, high: true, want: true},
		{name: "most of its share", after: window, idle: 0.9, used: 0.84, known: true, high: true},
		{name: "its quota is used up", after: window, idle: 0.9, used: 0.43, quota: 0.5, known: true, high: true, want: true},
		{name: "most of its quota", after: window, idle: 0.9, used: 0.42, quota: 0.5, known: true, high: true},
		{name: "a quota of more than its share", after: window, idle: 0.9, used: 0.86, quota: 1.5, known: true, high: true, want: true},
		{name: "a late look", after: stale - 1, known: true, high: true, want: true},
		{name: "nobody has asked", after: stale, known: true, before: true},
		{name: "not told", after: window, before: true},
	} {
		t.Run(step.name, func(t *testing.T) {
			start := sample{at: time.Now(), idle: time.Hour, used: time.Minute}
			g := Gauge{last: start, busy: step.before}
			if step.high {
				g.high = 1
			}
			s := sample{
				at:    start.at.Add(step.after),
				idle:  start.idle + time.Duration(step.idle*2*float64(step.after)),
				used:  start.used + time.Duration(step.used*float64(step.after)),
				quota: step.quota,
			}
			if !step.known {
				s.idle = 0
			}
			if g.add(s, 2, 1); g.busy != step.want {
				t.Errorf("busy is %v", g.busy)
			}
			if g.last != s {
				t.Error("the sample is not the last")
			}
		})
	}
}
