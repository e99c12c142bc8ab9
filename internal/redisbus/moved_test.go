package redisbus

import (
	"encoding/binary"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heraldgo/herald/internal/errs"
	"github.com/heraldgo/herald/internal/inbox"
	"github.com/heraldgo/herald/internal/uplink"
)

// If another Bus says that it has come from another server, that is a loss which no
// log shows. What this Bus has heard on that server itself is not lost. During a
// gap, the loss is told without ending the gap. It is told even if the inbox is
// full.
func TestMovedIsHidden(t *testing.T) {
	notice := func(since, until time.Duration) []byte {
		data := binary.BigEndian.AppendUint64(nil, uint64(since))
		return binary.BigEndian.AppendUint64(data, uint64(until))
	}
	synctest.Test(t, func(t *testing.T) {
		box := inbox.New(inbox.Config[Event]{
			Size: func(Event) int { return 1 }, MaxItems: 10, MaxBytes: 10, Restored: Event{Kind: KindRestored}, Earlier: earlier,
		})
		s := &subscriber{inbox: box, uplink: uplink.New(t.Context(), (*link).reason, errs.BusDown, errs.Closed)}
		in := newInbound(s, &trunk{intake: &intake{inbox: box}})
		expect := func(want ...Event) {
			t.Helper()
			for _, w := range want {
				e, err := box.Receive(t.Context())
				if err != nil || e.Kind != w.Kind || e.Hidden != w.Hidden || !e.Since.Equal(w.Since) {
					t.Errorf("got %+v, %v, want %+v", e, err, w)
				}
			}
		}
		began := time.Now()
		box.Down(Event{Kind: KindDown, Since: began})
		in.tookMoved(notice(time.Hour, 0)) // before this Bus has come to a server
		s.uplink.Up(new(link), func() { s.arrived = time.Now() })
		box.Restore()
		expect(Event{Kind: KindDown, Since: began}, Event{Kind: KindRestored})

		time.Sleep(time.Minute)
		in.tookMoved(notice(time.Hour, time.Minute))
		in.tookMoved(notice(time.Hour, time.Second)[1:])
		in.tookMoved(notice(time.Hour, time.Second))
		expect(Event{Kind: KindDown, Since: began, Hidden: true}, Event{Kind: KindRestored})

		down := time.Now()
		box.Down(Event{Kind: KindDown, Since: down})
		in.tookMoved(notice(3*time.Second, time.Second))
		expect(Event{Kind: KindDown, Since: down}, Event{Kind: KindRestored}, Event{Kind: KindDown, Since: down.Add(-3 * time.Second), Hidden: true})
		box.Restore()
		expect(Event{Kind: KindRestored})

		packet, full := Event{Kind: KindPacket}, Event{Kind: KindDown, Since: down}
		for range 11 {
			box.Push([]Event{packet}, full)
		}
		for _, since := range []time.Duration{5 * time.Second, 7 * time.Second, 6 * time.Second} {
			in.tookMoved(notice(since, time.Second))
		}
		expect(slices.Repeat([]Event{packet}, 10)...)
		expect(full, Event{Kind: KindRestored}, Event{Kind: KindDown, Since: down.Add(-7 * time.Second), Hidden: true}, Event{Kind: KindRestored})
	})
}
