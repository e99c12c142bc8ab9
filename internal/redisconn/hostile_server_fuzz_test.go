package redisconn_test

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/test/badserver"
)

// scriptedCommands are those that a script answers, each with one of its parts.
var scriptedCommands = []string{
	"HELLO", "SUBSCRIBE", "UNSUBSCRIBE", "PUBLISH", "EVALSHA", "EVAL", "TIME",
	"HGET", "HVALS", "HGETALL", "HEXISTS", "SRANDMEMBER", "SSCAN", "GET", "INFO",
	"HSCAN", "UNLINK",
}

// In a part of a script these stand for what the command has, or a link.
const (
	lastWord   = "\x01" // the last word of the command
	subscribed = "\x02" // how many channels are subscribed, as a number
	nextPart   = "\xff"
)

func scriptOf(answers map[string]string) []byte {
	parts := make([]string, len(scriptedCommands))
	for i, name := range scriptedCommands {
		parts[i] = answers[name]
	}
	return []byte(strings.Join(parts, nextPart))
}

// goodAnswers are those of a Redis that is well and has nothing in it. The
// message behind the confirmation passes for every probe.
func goodAnswers() map[string]string {
	return map[string]string{
		"HELLO":       helloReply,
		"SUBSCRIBE":   ">3\r\n$9\r\nsubscribe\r\n" + lastWord + subscribed + ">3\r\n$7\r\nmessage\r\n" + lastWord + "$8\r\n\x7f2345678\r\n",
		"UNSUBSCRIBE": ">3\r\n$11\r\nunsubscribe\r\n" + lastWord + subscribed,
		"PUBLISH":     ":1\r\n",
		"EVALSHA":     "$1\r\n1\r\n",
		"EVAL":        "*0\r\n",
		"TIME":        "*2\r\n$10\r\n1700000000\r\n$1\r\n0\r\n",
		"HGET":        "$-1\r\n",
		"HVALS":       "*0\r\n",
		"HGETALL":     "%0\r\n",
		"HEXISTS":     ":0\r\n",
		"SRANDMEMBER": "*0\r\n",
		"SSCAN":       "*2\r\n$1\r\n0\r\n*0\r\n",
		"GET":         "$-1\r\n",
		"HSCAN":       "*2\r\n$1\r\n0\r\n*0\r\n",
		"UNLINK":      ":1\r\n",
		"INFO":        "$26\r\nmaxmemory_policy:volatile\r\n\r\n",
	}
}

// scripted returns what answers one connection by a script.
func scripted(script []byte) badserver.Answer {
	parts := strings.Split(string(script), nextPart)
	var unread []byte
	channels := make(map[string]bool)
	return func(asked []byte) (string, bool) {
		unread = append(unread, asked...)
		var said strings.Builder
		for {
			words, rest := cutCommand(unread)
			if words == nil {
				return said.String(), true
			}
			unread = rest
			name, last := strings.ToUpper(words[0]), words[len(words)-1]
			switch name {
			case "SUBSCRIBE":
				channels[last] = true
			case "UNSUBSCRIBE":
				delete(channels, last)
			}
			at := -1
			for i, scripted := range scriptedCommands {
				if scripted == name {
					at = i
				}
			}
			if at < 0 || at >= len(parts) || parts[at] == "" {
				return said.String(), false
			}
			strings.NewReplacer(
				lastWord, fmt.Sprintf("$%d\r\n%s\r\n", len(last), last),
				subscribed, fmt.Sprintf(":%d\r\n", len(channels)),
			).WriteString(&said, parts[at])
		}
	}
}

// cutCommand returns the words of the first command of b, if it is there whole.
func cutCommand(b []byte) (words []string, rest []byte) {
	line := func(kind byte) (n int) {
		head, after, ok := bytes.Cut(b, []byte("\r\n"))
		if !ok || len(head) == 0 || head[0] != kind {
			return -1
		}
		b = after
		n, _ = strconv.Atoi(string(head[1:]))
		return n
	}
	n := line('*')
	for range n {
		size := line('$')
		if size < 0 || len(b) < size+2 {
			return nil, nil
		}
		words = append(words, string(b[:size]))
		b = b[size+2:]
	}
	return words, b
}

// everyMethod calls all methods of a Registry.
func everyMethod(ctx context.Context, r *herald.RedisRegistry) {
	lease := herald.Lease{Node: "n", Generation: 1}
	entry := herald.Entry{Session: herald.Session{ID: "n.1", User: "u"}, UserTopic: "u", Topics: []string{"g", "h", "i"}}
	r.Add(ctx, lease, entry)
	r.Remove(ctx, lease, entry)
	r.Sessions(ctx, herald.Lease{}, "u", "g")
	r.Online(ctx, herald.Lease{}, "u", "g")
	r.Check(ctx, lease, entry)
	r.KeepAlive(ctx, herald.Node{ID: "n"}, time.Second)
	r.KeepAlive(ctx, herald.Node{ID: "n", Generation: 1}, time.Second)
	r.Release(ctx, lease)
	r.Nodes(ctx)
	r.Sweep(ctx, lease)
	r.Offline(ctx, 0)
	r.Entries(ctx, lease, "")
}

// tryServer has a Bus and a Registry work with a server, and closes them.
func tryServer(t testing.TB, s *badserver.Server) (registryErr, busErr error) {
	const timeout = 30 * time.Millisecond
	client := hostileClient(t, s, timeout)
	ctx, cancel := context.WithTimeout(context.Background(), 10*timeout)
	defer cancel()
	registry, registryErr := herald.NewRedisRegistry(client, nil)
	if registryErr == nil {
		everyMethod(context.Background(), registry)
		registry.Close()
	}
	bus, busErr := herald.NewRedisBus(client, &herald.RedisOptions{ProbeTimeout: timeout})
	if busErr == nil {
		bus.Subscribe(ctx, "topic")
		bus.Publish(ctx, herald.Packet{Topic: "topic", Data: []byte("data")})
		bus.Unsubscribe(ctx, "topic")
		bus.Reset()
		bus.Receive(ctx)
		bus.Health()
		bus.Close()
	}
	return registryErr, busErr
}

// A server that is well by its script is one.
func TestScriptedServer(t *testing.T) {
	s := badserver.Start(t, func() (string, badserver.Answer) { return "", scripted(scriptOf(goodAnswers())) })
	registry, bus := tryServer(t, s)
	if registry != nil || bus != nil {
		t.Errorf("the Registry: %v, the Bus: %v", registry, bus)
	}
}

// Whatever a server answers, nothing panics, nothing waits for ever, and memory
// is bounded.
func FuzzHostileServer(f *testing.F) {
	f.Add(scriptOf(goodAnswers()))
	for name := range goodAnswers() {
		for _, bad := range []string{
			"$9223372036854775805\r\n", "*9223372036854775807\r\n", "%1152921504606846976\r\n", "*1\r\n*1\r\n*1\r\n*1\r\n", "|0\r\n|0\r\n+a\r\n", "-ERR no\r\n",
			"-MOVED 1 127.0.0.1:1\r\n", "-NOSCRIPT no\r\n", "-WRONGTYPE no\r\n", "_\r\n", "$-1\r\n", "*-1\r\n", "*2\r\n$1\r\na\r\n", ">3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nb\r\n",
			"%1\r\n*0\r\n+v\r\n", "*3\r\n-ERR a\r\n_\r\n(99999999999999999999\r\n", ">0\r\n", ",nan\r\n", "#x\r\n", "=3\r\ntxt\r\n", "!5\r\nERR a\r\n", "*2\r\n$1\r\n1\r\n*0\r\n",
		} {
			answers := goodAnswers()
			good := answers[name]
			answers[name] = bad
			f.Add(scriptOf(answers))
			answers[name] = bad + good
			f.Add(scriptOf(maps.Clone(answers)))
		}
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		s := badserver.Start(t, func() (string, badserver.Answer) { return "", scripted(script) })
		hung := time.AfterFunc(patience, func() { panic(fmt.Sprintf("it hangs: %q", script)) })
		grown := badserver.Grown(func() { tryServer(t, s) })
		hung.Stop()
		if grown > 512<<20 {
			t.Errorf("the process grew by %d MB", grown>>20)
		}
	})
}
