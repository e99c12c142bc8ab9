package herald

import (
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// Those that are upgraded only to be refused are bounded; the others are
// answered without an upgrade.
func TestRefusedAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newPipeRig(t, Config{MaxConns: 10, RejectAfterUpgrade: true, Authenticate: func(*http.Request) (Identity, error) {
			return Identity{}, errors.New("no")
		}})
		statuses := make(map[int]int)
		come := func(n int) {
			for range n {
				if _, w, err := r.tryPipe(""); err != nil {
					statuses[w.status]++
				} else {
					statuses[http.StatusSwitchingProtocols]++
				}
			}
			synctest.Wait()
		}
		come(3_000)
		if statuses[101] != 1_000 || statuses[401] != 2_000 {
			t.Errorf("3,000 were refused with %v; Refused %d", statuses, r.Stats().Refused)
		}
		if s := r.Stats(); s.Refused != 1_000 || s.Rejected != 3_000 {
			t.Errorf("Refused %d, Rejected %d", s.Refused, s.Rejected)
		}
		time.Sleep(r.config.CloseTimeout)
		synctest.Wait()
		clear(statuses)
		come(10)
		if statuses[101] != 10 || r.Stats().Refused != 10 {
			t.Errorf("after CloseTimeout, 10 were refused with %v; Refused %d", statuses, r.Stats().Refused)
		}
		time.Sleep(r.config.CloseTimeout)
		r.clean()
	})
}
