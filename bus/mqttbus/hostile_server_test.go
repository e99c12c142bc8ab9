package mqttbus_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/bus/mqttbus"
	"github.com/heraldgo/herald/internal/badserver"
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
			if grown > 48<<20 {
				t.Errorf("the process grew by %d MB", grown>>20)
			}
		})
	}
}
