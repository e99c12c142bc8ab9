package herald

import "testing"

// What is remembered of messages that come in several packets is bounded in
// Conns, not in messages alone; the latest is remembered whole.
func TestCopiesAreBounded(t *testing.T) {
	for _, conns := range []uint64{0, 1, 2_000, maxCopyConns + 1} {
		var s copies
		messages := uint64(min(3*maxCopies, 4*maxCopyConns/(conns+1)+2))
		for id := range messages {
			had := s.of("node", id)
			for c := range conns {
				had[c] = struct{}{}
			}
			if again := s.of("node", id); len(again) != int(conns) {
				t.Fatalf("%d of %d Conns are remembered of the latest", len(again), conns)
			}
			if len(s.had) != s.order.Len() || len(s.had) > maxCopies {
				t.Fatalf("%d messages are remembered, %d in order", len(s.had), s.order.Len())
			}
		}
		sum := 0
		for _, had := range s.had {
			sum += len(had)
		}
		if sum > int(max(maxCopyConns, conns)+conns) || s.conns != sum-int(conns) {
			t.Errorf("%d Conns a message: %d are remembered, %d counted", conns, sum, s.conns)
		}
	}
}
