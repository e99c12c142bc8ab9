package natsbus

import (
	"bufio"
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/heraldgo/herald/internal/inbox"

	"github.com/heraldgo/herald"
)

func TestSubject(t *testing.T) {
	for topic, want := range map[string]string{
		"u:42":            "herald.u:42",
		"room-7_a/b+$":    "herald.room-7_a/b+$",
		"":                "herald.%",
		"%":               "herald.%25",
		"a.b":             "herald.a%2Eb",
		"*":               "herald.%2A",
		">":               "herald.%3E",
		" ":               "herald.%20",
		"a\tb\r\n\x00":    "herald.a%09b%0D%0A%00",
		"用户":              "herald.用户",
		"a\u00a0b\u2028":  "herald.a%C2%A0b%E2%80%A8", // white space, though not NATS'
		"\xff\xfe":        "herald.%FF%FE",
		"\ufffd":          "herald.\ufffd",
		"\u200b\u0085":    "herald.%E2%80%8B%C2%85", // cannot be seen
		"\x7f":            "herald.%7F",
		"\xe7\x94":        "herald.%E7%94", // part of a character
		"user@example.it": "herald.user@example%2Eit",
	} {
		if got := string(appendSubject(nil, "herald.", topic)); got != want {
			t.Errorf("subject of %q: %q, want %q", topic, got, want)
		}
	}
	longest := strings.Repeat("x", maxPrefix) + "."
	if err := checkTopic(longest, strings.Repeat("\xff", 200)); err != nil {
		t.Errorf("the longest topic of a Hub, with the longest prefix: %v", err)
	}
}

// FuzzSubject checks that topics have subjects of their own, each of one
// token that means nothing to NATS.
func FuzzSubject(f *testing.F) {
	for _, topic := range []string{"", "a", "a.b", "%", "%2E", "*", ">", "\x00", "用户", "\xff", "a\u00a0"} {
		f.Add(topic, topic+"x")
		f.Add(topic, "%"+topic)
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		x, y := string(appendSubject(nil, "", a)), string(appendSubject(nil, "", b))
		if (a == b) != (x == y) {
			t.Errorf("topics %q and %q have the subjects %q and %q", a, b, x, y)
		}
		if x == "" || len(x) > max(1, 3*len(a)) || strings.ContainsAny(x, ".*> \t\r\n\x00") || strings.HasPrefix(x, "%!") {
			t.Errorf("topic %q has the subject %q", a, x)
		}
		if pub := appendPub(nil, "p.", a, []byte(b)); !strings.HasPrefix(string(pub), "PUB p."+x+" ") {
			t.Errorf("%q", pub)
		} else if subject, rest := cutPub(append(pub, "rest"...)); string(subject) != "p."+x || string(rest) != "rest" {
			t.Errorf("%q is cut into %q and %q", pub, subject, rest)
		}
	})
}

func TestParseMessage(t *testing.T) {
	for _, test := range []struct {
		args    string
		headers bool
		want    message
		ok      bool
	}{
		{"a.b 2 5\r\n", false, message{sid: 2, size: 5}, true},
		{"a.b 2 _INBOX.x 5\r\n", false, message{sid: 2, size: 5}, true},
		{"a.b  2  5\r\n", false, message{sid: 2, size: 5}, true},
		{"a.b 2 12 17\r\n", true, message{sid: 2, headers: 12, size: 17}, true},
		{"a.b 2 reply 12 17\r\n", true, message{sid: 2, headers: 12, size: 17}, true},
		{"a.b 2\r\n", false, message{}, false},
		{"a.b 2 5 6 7\r\n", false, message{}, false},
		{"a.b 2 -5\r\n", false, message{}, false},
		{"a.b x 5\r\n", false, message{}, false},
		{"a.b 2 99999999999\r\n", false, message{}, false},
		{"a.b 2 18 17\r\n", true, message{}, false},
		{"\r\n", false, message{}, false},
	} {
		got, err := parseMessage([]byte(test.args), test.headers)
		if (err == nil) != test.ok || test.ok && got != test.want {
			t.Errorf("%q: %+v, %v", test.args, got, err)
		}
	}
}

func TestRefusal(t *testing.T) {
	for text, want := range map[string]string{
		`Permissions Violation for Publish to "herald.x"`:             "herald.x",
		`Permissions Violation for Subscription to "herald.\"a\"\\"`:  `herald."a"\`,
		`Permissions Violation for Subscription to "a" using queue q`: "a",
		`Permissions Violation for Publish to "herald.`:               "",
		`maximum subscriptions exceeded`:                              "",
	} {
		if got := refusal(text).denied(); got != want || !isRefusal(text) {
			t.Errorf("%s: is about %q, want %q", text, got, want)
		}
	}
	for _, text := range []string{"Slow Consumer", "Stale Connection", "Authorization Violation", ""} {
		if isRefusal(text) {
			t.Errorf("%s: the server closes the connection after it", text)
		}
	}
}

// FuzzRead has a link read whatever a server may send.
func FuzzRead(f *testing.F) {
	f.Add([]byte("MSG herald.a 2 5\r\nhello\r\nPING\r\nPONG\r\n"))
	f.Add([]byte("HMSG herald.a 2 12 17\r\nNATS/1.0\r\n\r\nhello\r\n"))
	f.Add([]byte("MSG herald.a 3 5\r\nhello\r\n-ERR 'Permissions Violation for Publish to \"x\"'\r\n+OK\r\nINFO {}\r\n"))
	f.Add([]byte("MSG herald.a 1 8\r\n12345678\r\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1<<16 {
			t.Skip()
		}
		s := newSubscriber(t.Context(), &dialer{}, inbox.New(inbox.Config[herald.Event]{
			Size: func(herald.Event) int { return 1 }, MaxItems: 1 << 20, MaxBytes: 1 << 20,
		}), "herald.", "herald.%!")
		defer s.batch.Close(herald.ErrClosed)
		in := &inbound{sub: s}
		in.take("a")
		l := &link{dialer: &dialer{}, server: &server{}, in: in, r: bufio.NewReader(bytes.NewReader(data))}
		l.answering.Store(true) // there is nowhere to write to
		l.current = &exchange{done: make(chan struct{})}
		for l.readOne() == nil {
		}
		for _, e := range in.events {
			if e.Packet.Topic != "a" || len(e.Packet.Data) > len(data) {
				t.Errorf("%q became %+v", data, e)
			}
		}
	})
}

// A link that died is told apart by what went out of each call.
func TestOutcome(t *testing.T) {
	items := make([]*publication, 3)
	for i := range items {
		items[i] = newPublication()
		items[i].add("p.", herald.Packet{Topic: fmt.Sprint(i), Data: []byte("data")})
	}
	items[1].add("p.", herald.Packet{Topic: "1", Data: []byte("more")})
	size := len(items[0].bytes) // of each packet
	for written, want := range map[int]string{
		0: "down down down", size - 1: "down down down", size: "unknown down down", 2*size - 1: "unknown down down",
		2 * size: "unknown unknown down", 4*size - 1: "unknown unknown down", 4 * size: "unknown unknown unknown",
	} {
		out := outcome{written: written, err: errReset}
		at := 0
		var got []string
		for _, item := range items {
			err := out.result(item, at)
			at += len(item.bytes)
			got = append(got, map[bool]string{true: "unknown", false: "down"}[strings.Contains(err.Error(), herald.ErrUnknown.Error())])
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%d bytes written: %v, want %s", written, got, want)
		}
	}
}
