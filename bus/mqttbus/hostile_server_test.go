package mqttbus_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/bus/mqttbus"
	"github.com/heraldgo/herald/internal/test/badserver"
)

const connack = "\x20\x03\x00\x00\x00"

// A broker that says what no broker says is an error, not the end of the
// process, and costs no memory nor keeps New for ever.
func TestHostileServer(t *testing.T) {
	for name, answers := range map[string][]string{
		"nothing but bytes":              {strings.Repeat("x", 4096) + badserver.Endless},
		"a CONNACK of 256 MB":            {"\x20\xff\xff\xff\x7f\x00\x00"},
		"a CONNACK cut short":            {"\x20\x03\x00\x00\x7f"},
		"a CONNACK of a property cut":    {"\x20\x05\x00\x00\x02\x1f\x7f"},
		"a length without end":           {"\x20\xff\xff\xff\xff\xff\xff"},
		"PINGRESP without end":           {connack, strings.Repeat("\xd0\x00", 2048) + badserver.Endless},
		"DISCONNECT cut short":           {connack, "\xe0\x02\x00\x7f"},
		"a SUBACK of nothing":            {connack, "\x90\x00"},
		"a SUBACK of 1 MB":               {connack, "\x90\x80\x80\x40" + strings.Repeat("\x00", 1<<20)},
		"a PUBLISH of 256 MB":            {connack, "\x30\xff\xff\xff\x7f\x00\x01a"},
		"PUBLISH without end":            {connack, strings.Repeat("\x30\x04\x00\x01a\x00", 1024) + badserver.Endless},
		"a PUBLISH with QoS 1 cut short": {connack, "\x32\x03\x00\x01a\x00\x00"},
		"an AUTH":                        {connack, "\xf0\x02\x00\x00"},
	} {
		t.Run(name, func(t *testing.T) {
			server := badserver.Start(t, func() (string, badserver.Answer) { return "", badserver.InTurn(append(answers, "")...) })
			grown := badserver.Grown(func() {
				_, err := mqttbus.New("mqtt://"+server.Addr(), &mqttbus.Options{ProbeTimeout: 500 * time.Millisecond})
				if !errors.Is(err, herald.ErrBusDown) && !strings.Contains(fmt.Sprint(err), "refuses") {
					t.Errorf("New: %.300v", err)
				}
			})
			if grown > 128<<20 {
				t.Errorf("the process grew by %d MB", grown>>20)
			}
		})
	}
}

// Whatever a broker says, nothing panics, nothing waits for ever, and
// memory is bounded. The input is what it says in turn, with 0xff between, and
// then it hangs up.
func FuzzHostileServer(f *testing.F) {
	all := connack + "\x90\x04\x00\x01\x00\x00" + "\x40\x02\x00\x01" + "\xd0\x00"
	f.Add([]byte(connack))
	f.Add([]byte(strings.Join([]string{connack, "\x90\x04\x00\x01\x00\x00", "\xd0\x00", "\xd0\x00"}, "\xff")))
	f.Add([]byte(strings.Join([]string{connack, "\x40\x02\x00\x01", "\xd0\x00", "\xd0\x00"}, "\xff")))
	f.Add([]byte(strings.Join([]string{"\x20\x06\x00\x00\x03\x21\x00\x0a", "\x90\x04\x00\x01\x00\x87"}, "\xff")))
	f.Add([]byte(strings.Join([]string{all, all, all}, "\xff")))
	f.Add([]byte("\x20\x03\x00\x87\x00"))
	f.Add([]byte(strings.Join([]string{connack, "\x30\x0d\x00\x08herald/a\x00\x01\x02", "\xe0\x01\x8b"}, "\xff")))
	f.Fuzz(func(t *testing.T, script []byte) {
		said := strings.Split(string(script), "\xff")
		server := badserver.Start(t, func() (string, badserver.Answer) {
			next := 0
			answer := func([]byte) (string, bool) {
				if next == len(said) {
					return "", false
				}
				next++
				return said[next-1], true
			}
			return "", answer
		})
		hung := time.AfterFunc(30*time.Second, func() { panic(fmt.Sprintf("it hangs: %q", script)) })
		grown := badserver.Grown(func() {
			bus, err := mqttbus.New("mqtt://"+server.Addr(), &mqttbus.Options{ProbeTimeout: 50 * time.Millisecond})
			if err != nil {
				return
			}
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			bus.Subscribe(ctx, "topic")
			bus.Publish(ctx, herald.Packet{Topic: "topic", Data: []byte("data")})
			bus.Unsubscribe(ctx, "topic")
			bus.Reset()
			bus.Receive(ctx)
			bus.Close()
		})
		hung.Stop()
		if grown > 256<<20 {
			t.Errorf("the process grew by %d MB", grown>>20)
		}
	})
}
