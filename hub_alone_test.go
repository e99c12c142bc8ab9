package herald

import (
	"context"
	"log/slog"
	"strings"
	"testing"
)

// A Hub without Redis and Bus says that it is alone, once.
func TestAloneIsTold(t *testing.T) {
	for _, test := range []struct {
		config Config
		want   int
	}{
		{Config{}, 1},
		{Config{Bus: NewMemoryNetwork().Bus(), Registry: NewMemoryRegistry()}, 0},
	} {
		var log strings.Builder
		test.config.Logger = slog.New(slog.NewTextHandler(&log, nil))
		h, err := New(test.config)
		if err != nil {
			t.Fatal(err)
		}
		h.Shutdown(context.Background())
		if got := strings.Count(log.String(), "level=INFO msg=\"herald: neither Redis nor a Bus"); got != test.want {
			t.Errorf("told %d times, want %d:\n%s", got, test.want, &log)
		}
	}
}
