package main

import (
	"os"
	"testing"
	"time"

	"github.com/heraldgo/herald/internal/test/faultrig"
)

func TestMain(m *testing.M) {
	faultrig.Main(buses)
	os.Exit(m.Run())
}

// A small form of the table's first rows, with all three kinds of client: nothing is
// missing and not told, and with a Retention nothing at all.
func TestRows(t *testing.T) {
	for _, f := range faultrig.Faults(faultrig.Redis) {
		if f.Name != "client cuts" && f.Name != "node killed" {
			continue
		}
		for name, retention := range map[string]bool{"with": true, "without": false} {
			t.Run(f.Name+", "+name, func(t *testing.T) {
				t.Parallel()
				v := faultrig.Run(t, f, faultrig.Options{
					Bus: faultrig.Redis, Retention: retention, Nodes: 3, Users: 8, Pace: 100 * time.Millisecond,
					HeraldJS: "../../client/js/herald.min.js",
				})
				for _, text := range v.Broken[:min(10, len(v.Broken))] {
					t.Error(text)
				}
				if retention && v.Told > 0 {
					t.Errorf("%d messages are missing, and the data survived", v.Told)
				}
			})
		}
	}
}
