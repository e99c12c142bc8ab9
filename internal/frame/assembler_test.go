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
		for len(part) > 0 {
			got, rest, err := a.Next(part)
			if err != nil {
				t.Fatal(err)
			}
			part = rest
			switch got.Kind {
			case Text, Binary:
				if !Valid(got.Data) || cap(got.Data) != len(got.Data) {
					t.Fatalf("% x of %d bytes is no frame, or has room for %d", got.Data[:min(len(got.Data), 20)], len(got.Data), cap(got.Data))
				}
				fallthrough
			case Ping, Pong:
				messages = append(messages, fmt.Sprintf("%x %s", got.Kind, got.Data))
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
				if len(sent)/n > 100_000 {
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

// What is announced takes no memory until it comes.
func TestAssemblerGrowsAsBytesCome(t *testing.T) {
	var a Assembler
	a.Next([]byte("\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00"))
	part := make([]byte, 1000)
	for come := len(part); come < 10<<20; come += len(part) {
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

// A message that came at once costs one allocation.
func TestAssemblerAllocates(t *testing.T) {
	var a Assembler
	sent := []byte(client(Text, strings.Repeat("x", 1000)))
	b := make([]byte, len(sent))
	if n := testing.AllocsPerRun(100, func() { a.Next(b[:copy(b, sent)]) }); n != 1 {
		t.Errorf("%v allocations", n)
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
