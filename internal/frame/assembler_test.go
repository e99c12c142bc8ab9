package frame

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

// assemble gives b to an Assembler as a socket would, in reads of at most n bytes,
// into its Room if it has some, and returns the messages.
func assemble(t *testing.T, a *Assembler, b []byte, n int) (messages []string) {
	t.Helper()
	memory := make([]byte, n)
	for len(b) > 0 {
		part := memory
		if room := a.Room(n); room != nil {
			part = room[:min(len(room), 3*n)]
		}
		part = part[:copy(part, b)]
		b = b[len(part):]
		if len(part) == 0 {
			t.Fatal("no room")
		}
		for len(part) > 0 {
			got, rest, err := a.Next(part)
			if err != nil || len(rest) == len(part) {
				t.Fatalf("%v, %d bytes left of %d", err, len(rest), len(part))
			}
			part = rest
			switch got.Kind {
			case Text, Binary:
				if !Valid(got.Payload) || cap(got.Payload) != len(got.Payload) {
					t.Fatalf("% x of %d bytes is no frame, or has room for %d", got.Payload[:min(len(got.Payload), 20)], len(got.Payload), cap(got.Payload))
				}
				fallthrough
			case Ping, Pong:
				messages = append(messages, fmt.Sprintf("%x %s", got.Kind, got.Payload))
			}
		}
		clear(memory)
	}
	return messages
}

// A message is the same frame in the end, in whatever fragments it came, and in
// whatever reads.
func TestAssembler(t *testing.T) {
	for _, size := range []int{0, 1, 125, 126, 1000, 1<<16 - 1, 1 << 16, 300_000} {
		payload := strings.Repeat("0123456789é", size)[:size]
		want := fmt.Sprintf("82 %s", append(AppendHeader(nil, Binary, size), payload...))
		for _, fragment := range []int{1, 64, 5000, 1 << 20} {
			if size/fragment > 10_000 {
				continue
			}
			var sent []byte
			first := byte(2)
			for rest := payload; ; first = 0 {
				n := min(len(rest), fragment)
				if n == len(rest) {
					sent = append(sent, client(first|final, rest)...)
					break
				}
				sent = append(sent, client(first, rest[:n])...)
				sent = append(sent, client(Ping, "p")...)
				rest = rest[n:]
			}
			sent = append(sent, client(Text, "next")...)
			for _, n := range []int{1, 7, 4096, 1 << 20} {
				if len(sent)/n > 20_000 {
					continue
				}
				var a Assembler
				got := assemble(t, &a, bytes.Clone(sent), n)
				pings := len(got) - 2
				if pings < 0 || got[pings] != want || got[pings+1] != "81 \x81\x04next" || a.Held() != 0 {
					t.Fatalf("%d bytes in fragments of %d, read by %d: %d pings, and %d bytes held", size, fragment, n, pings, a.Held())
				}
			}
		}
	}
}

// What is announced takes no memory until it comes, and what comes is seldom moved.
func TestAssemblerGrowsAsBytesCome(t *testing.T) {
	var a Assembler
	moved, held := 0, 0
	a.Next([]byte("\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00"))
	part := make([]byte, 1000)
	for come := len(part); come < 1<<20; come += len(part) {
		if a.Held() != held {
			held = a.Held()
			moved++
		}
		if moved > 12 {
			t.Fatalf("moved %d times for %d bytes", moved, come)
		}
		if _, rest, err := a.Next(part); len(rest) > 0 || err != nil {
			t.Fatalf("%d bytes left, %v", len(rest), err)
		}
		if most := 2*come + smallRead + MaxHeader; a.Held() > most {
			t.Fatalf("%d bytes are held after %d", a.Held(), come)
		}
		part = a.Room(1000)
		if most := 2 * (come + smallRead + MaxHeader); a.Held() > most || len(part) == 0 {
			t.Fatalf("%d bytes are held after %d, of which room is %d", a.Held(), come, len(part))
		}
	}
}

// Room is for at least as much as is asked for, and no more than the frame has.
func TestAssemblerRoom(t *testing.T) {
	var a Assembler
	if a.Room(1) != nil {
		t.Error("there is room before a message")
	}
	a.Next([]byte(client(Binary, strings.Repeat("x", 1000)))[:8+600])
	if a.Room(401) != nil || len(a.Room(400)) != 400 {
		t.Errorf("room for %d bytes of 400", len(a.Room(400)))
	}
}

// A message takes the memory that it can need, if that is less than twice of what
// has come, and in the end no more than a quarter too much.
func TestAssemblerMemory(t *testing.T) {
	for _, test := range []struct {
		limit int64
		sent  string
		want  int
	}{
		{0, client(Binary, strings.Repeat("x", 1000))[:8+600], 1000},
		{0, client(Binary, strings.Repeat("x", 1000))[:8+400], 2*400 + MaxHeader},
		{0, client(2, "") + client(0, ""), -MaxHeader},
		{0, client(2, strings.Repeat("x", 600)), 2*600 + MaxHeader},
		{700, client(2, strings.Repeat("x", 600)), 700},
	} {
		a := Assembler{Parser: Parser{MaxMessage: test.limit}}
		for rest := []byte(test.sent); len(rest) > 0; {
			_, rest, _ = a.Next(rest)
		}
		if a.Held() != test.want+MaxHeader {
			t.Errorf("%d bytes are held, want %d", a.Held()-MaxHeader, test.want)
		}
	}
	for size, copied := range map[int]bool{65: true, 108: true, 109: false, 138: false} {
		var a Assembler
		a.Next([]byte(client(2, strings.Repeat("x", 64))))
		if a.Held() != 148 {
			t.Fatalf("%d bytes are held", a.Held())
		}
		memory := &a.b[MaxHeader]
		got, _, err := a.Next([]byte(client(end, strings.Repeat("x", size-64))))
		if payload, ok := Payload(got.Payload); err != nil || !ok || len(payload) != size || (&payload[0] != memory) != copied {
			t.Errorf("a message of %d bytes in 148 is copied: %v, %v", size, !copied, err)
		}
	}
}

// A message that came at once costs one allocation; in two reads it costs no more, if
// the first had more than half.
func TestAssemblerAllocates(t *testing.T) {
	var a Assembler
	sent := []byte(client(Text, strings.Repeat("x", 1000)))
	b := make([]byte, len(sent))
	for _, cut := range []int{len(sent), 600} {
		n := testing.AllocsPerRun(100, func() {
			copy(b, sent)
			a.Next(b[:cut])
			a.Next(b[cut:])
		})
		if n != 1 {
			t.Errorf("cut at %d: %v allocations", cut, n)
		}
	}
}

func BenchmarkAssembler(b *testing.B) {
	for _, size := range []int{0, 16, 4 << 10, 64 << 10} {
		for _, fragment := range []int{64, 1 << 20} {
			if size < fragment && fragment == 64 {
				continue
			}
			var sent []byte
			for rest := size; rest >= 0; rest -= fragment {
				first := byte(0)
				if rest == size {
					first = Text & opcode
				}
				if rest <= fragment {
					first |= final
				}
				sent = append(sent, client(first, strings.Repeat("x", min(rest, fragment)))...)
				if first&final != 0 {
					break
				}
			}
			b.Run(fmt.Sprintf("%dB/%d", size, fragment), func(b *testing.B) {
				b.SetBytes(int64(size))
				b.ReportAllocs()
				var a Assembler
				memory := make([]byte, len(sent))
				for b.Loop() {
					for part := memory[:copy(memory, sent)]; len(part) > 0; {
						var err error
						if _, part, err = a.Next(part); err != nil {
							b.Fatal(err)
						}
					}
				}
			})
		}
	}
}
