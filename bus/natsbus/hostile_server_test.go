package natsbus_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/bus/natsbus"
	"github.com/heraldgo/herald/internal/test/badserver"
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
		"a message of 1 GB":          {info, []string{"PONG\r\n", "MSG a 1 1073741824\r\n"}},
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
			// What nats.go makes of a list of 50,000 servers may take a hundred
			// MB before it is collected. Ten seconds without a bound take GBs.
			if grown > 256<<20 {
				t.Errorf("the process grew by %d MB", grown>>20)
			}
		})
	}
}

// Whatever a server says, nothing panics, nothing waits for ever, and
// memory is bounded. The input is what it says in turn, with 0xff between, and
// then it hangs up.
func FuzzHostileServer(f *testing.F) {
	probe := "MSG a 1 8\r\n\x7f2345678\r\nPONG\r\n"
	f.Add([]byte(info))
	f.Add([]byte(strings.Join([]string{info, "PONG\r\n", "PONG\r\n", probe, probe, probe, probe, probe}, "\xff")))
	f.Add([]byte(strings.Join([]string{info, "-ERR 'Authorization Violation'\r\n"}, "\xff")))
	f.Add([]byte(strings.Join([]string{info, "+OK\r\nPONG\r\n", "-ERR 'Permissions Violation for Subscription to \"herald.a\"'\r\nPONG\r\n", "PING\r\n" + info + "PONG\r\n"}, "\xff")))
	f.Add([]byte(strings.Join([]string{info, "PONG\r\n", "HMSG a 1 b 12 20\r\nNATS/1.0\r\n\r\n12345678\r\nPONG\r\n"}, "\xff")))
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
			greeting, _ := answer(nil)
			return greeting, answer
		})
		hung := time.AfterFunc(30*time.Second, func() { panic(fmt.Sprintf("it hangs: %q", script)) })
		grown := badserver.Grown(func() {
			bus, err := natsbus.New("nats://"+server.Addr(), &natsbus.Options{ProbeTimeout: 50 * time.Millisecond})
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
