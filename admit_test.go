package herald_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/heraldgo/herald"
)

// olderSessions makes one Session for each word, device/platform, oldest first.
// Its ID is the word.
func olderSessions(words string) []herald.Session {
	var sessions []herald.Session
	for _, word := range strings.Fields(words) {
		device, platform, _ := strings.Cut(word, "/")
		sessions = append(sessions, herald.Session{ID: word, Device: device, Platform: platform})
	}
	return sessions
}

func TestAdmitAll(t *testing.T) {
	spoil := func(_ context.Context, _ herald.Session, older []herald.Session, _ int) ([]herald.Session, error) {
		clear(older) // it owns them
		return []herald.Session{{ID: "stranger"}}, nil
	}
	for name, test := range map[string]struct {
		admit herald.AdmitFunc
		total int // 0 is that of older
		want  string
	}{
		"none":                          {herald.AdmitAll(), 0, ""},
		"one":                           {herald.AdmitAll(herald.MaxPerUser(2)), 0, "a/web b/ios"},
		"a rule, then a limit":          {herald.AdmitAll(herald.OnePerPlatform(), herald.MaxPerUser(3)), 0, "a/web c/web"},
		"a rule, then a lower limit":    {herald.AdmitAll(herald.OnePerPlatform(), herald.MaxPerUser(1)), 0, "a/web c/web b/ios"},
		"a limit, then a rule":          {herald.AdmitAll(herald.MaxPerUser(3), herald.OnePerPlatform()), 0, "a/web c/web"},
		"more than are given":           {herald.AdmitAll(herald.OnePerPlatform(), herald.MaxPerUser(3)), 5, "a/web c/web b/ios"},
		"one that spoils what it gets":  {herald.AdmitAll(spoil, herald.OnePerPlatform()), 0, "stranger a/web c/web"},
		"a stranger counts for nothing": {herald.AdmitAll(spoil, herald.MaxPerUser(2)), 0, "stranger a/web b/ios"},
	} {
		t.Run(name, func(t *testing.T) {
			older := olderSessions("a/web b/ios c/web")
			evict, err := test.admit(t.Context(), herald.Session{ID: "new", Device: "d", Platform: "web"}, older, max(test.total, len(older)))
			var got []string
			for _, s := range evict {
				got = append(got, s.ID)
			}
			if err != nil || strings.Join(got, " ") != test.want {
				t.Errorf("evicts %q, want %q: %v", got, test.want, err)
			}
		})
	}
}

func TestAdmitAllRefuses(t *testing.T) {
	refusal := &herald.CloseError{Code: 4003}
	refuse := func(context.Context, herald.Session, []herald.Session, int) ([]herald.Session, error) {
		return nil, fmt.Errorf("banned: %w", refusal)
	}
	last := func(context.Context, herald.Session, []herald.Session, int) ([]herald.Session, error) {
		t.Error("one was asked behind the refusal")
		return nil, nil
	}
	evict, err := herald.AdmitAll(herald.MaxPerUser(1), refuse, last)(t.Context(), herald.Session{}, olderSessions("a/web"), 1)
	if !errors.Is(err, refusal) || len(evict) > 0 {
		t.Errorf("evicts %v: %v", evict, err)
	}
}
