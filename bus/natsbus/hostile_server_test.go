package natsbus_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/bus/natsbus"
	"github.com/heraldgo/herald/internal/badserver"
)

const info = `INFO {"server_id":"A","version":"2.10.0","proto":1,"headers":true,"max_payload":1048576}` + "\r\n"

// A server that says what no server says is an error, not the end of the
// process, and costs no memory nor keeps New for ever.
func TestHostileServer(t *testing.T) {
	var urls []string
	for i := range 50_000 {
		urls = append(urls, fmt.Sprintf(`"10.%d.%d.%d:4222"`, i>>16, i>>8&255, i&255))
	}
	discovered := strings.Replace(info, `"proto"`, `"connect_urls":[`+strings.Join(urls, ",")+`],"proto"`, 1)
	for name, s := range map[string]struct {
		greeting string
		answers  []string
	}{
		"nothing but bytes":          {strings.Repeat("x", 4096) + badserver.Endless, nil},
		"an INFO without end":        {"INFO {" + strings.Repeat(`"a":"b",`, 512) + badserver.Endless, nil},
		"an INFO nested without end": {"INFO " + strings.Repeat("[", 1<<19) + "\r\n", nil},
		"PING without end":           {info, []string{"PONG\r\n", strings.Repeat("PING\r\n", 512) + badserver.Endless}},
		"INFO again and again":       {info, []string{"PONG\r\n", discovered + badserver.Endless}},
		"refusals without end":       {info, []string{"PONG\r\n", strings.Repeat("-ERR 'Permissions Violation for Subscription to \"a\"'\r\n", 512) + badserver.Endless}},
		"long refusals":              {info, []string{"PONG\r\n", "-ERR 'Permissions Violation " + strings.Repeat("x", 1<<19) + "'\r\n" + badserver.Endless}},
		"a message of 64 MB":         {info, []string{"PONG\r\n", "MSG a 1 67108864\r\n"}},
		"a message of 2^63 bytes":    {info, []string{"PONG\r\n", "MSG a 1 9223372036854775807\r\n"}},
		"a message of -1 bytes":      {info, []string{"PONG\r\n", "MSG a 1 -1\r\n"}},
		"headers larger than all":    {info, []string{"PONG\r\n", "HMSG a 1 100 10\r\n"}},
		"a line without end":         {info, []string{"PONG\r\n", strings.Repeat("MSG a ", 512) + badserver.Endless}},
	} {
		t.Run(name, func(t *testing.T) {
			server := badserver.Start(t, func() (string, badserver.Answer) { return s.greeting, badserver.InTurn(append(s.answers, "")...) })
			grown := badserver.Grown(func() {
				_, err := natsbus.New("nats://"+server.Addr(), &natsbus.Options{ProbeTimeout: 500 * time.Millisecond})
				if !errors.Is(err, herald.ErrBusDown) && !strings.Contains(fmt.Sprint(err), "denies") {
					t.Errorf("New: %.300v", err)
				}
			})
			if grown > 48<<20 {
				t.Errorf("the process grew by %d MB", grown>>20)
			}
		})
	}
}
