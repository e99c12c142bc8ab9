package redisregistry

import (
	"testing"

	"github.com/redis/go-redis/v9"
)

// Entries ends even if a cursor never does.
func TestEntriesOfAnEndlessCursor(t *testing.T) {
	scans := 0
	r := answeringRegistry(t, 1, func(cmd redis.Cmder) {
		scan, ok := cmd.(*redis.ScanCmd)
		if scans++; !ok || scans > 100*maxScans {
			t.Fatalf("%s, after %d answers", cmd.Name(), scans)
		}
		scan.SetErr(nil)
		scan.SetVal(nil, 1)
	})
	entries, next, err := r.Entries(t.Context(), Lease{"n", 1}, "")
	if len(entries) > 0 || next == "" || err != nil {
		t.Errorf("%d entries, next %q, %v", len(entries), next, err)
	}
}
