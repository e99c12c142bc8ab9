package inbox_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/heraldgo/herald/internal/inbox"
)

var errRefused = errors.New("another waits")

func newInbox(items, bytes int) *inbox.Inbox[string] {
	return inbox.New(inbox.Config[string]{
		Size: func(e string) int { return len(e) }, MaxItems: items, MaxBytes: bytes, Restored: "up", Refusal: errRefused,
		Earlier: func(a, b string) bool { return a < b },
	})
}

// take receives n events, or all that wait if n is 0.
func take(b *inbox.Inbox[string], n int) string {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	var events []string
	for n == 0 || len(events) < n {
		e, err := b.Receive(ended)
		if err != nil {
			break
		}
		events = append(events, e)
	}
	return strings.Join(events, " ")
}

func TestInbox(t *testing.T) {
	push := func(b *inbox.Inbox[string], events ...string) { b.Push(events, "lost") }
	for name, test := range map[string]struct {
		run  func(b *inbox.Inbox[string])
		want string
	}{
		"order":           {func(b *inbox.Inbox[string]) { push(b, "1", "2"); push(b, "3") }, "1 2 3"},
		"gap":             {func(b *inbox.Inbox[string]) { push(b, "1"); b.Down("down"); b.Restore(); push(b, "2") }, "1 down up 2"},
		"flaps":           {func(b *inbox.Inbox[string]) { b.Down("a"); b.Restore(); b.Down("b"); b.Down("c"); b.Restore() }, "a up"},
		"flaps, packet":   {func(b *inbox.Inbox[string]) { b.Down("a"); b.Restore(); push(b, "1"); b.Down("b"); b.Restore() }, "a up 1 b up"},
		"lost":            {func(b *inbox.Inbox[string]) { push(b, "1"); b.Lost("a"); push(b, "2"); b.Restore() }, "1 a up 2"},
		"lost twice":      {func(b *inbox.Inbox[string]) { b.Lost("a"); b.Lost("b"); b.Down("c"); b.Restore() }, "a up b up"},
		"lost while down": {func(b *inbox.Inbox[string]) { b.Down("down"); b.Lost("a"); b.Restore() }, "down up a up"},
		"lost after down": {func(b *inbox.Inbox[string]) { b.Down("down"); b.Restore(); b.Lost("a") }, "down up a up"},
		"lost, and down":  {func(b *inbox.Inbox[string]) { b.Down("down"); b.Lost("a"); take(b, 1) }, "up a"},
		"lost, no room":   {func(b *inbox.Inbox[string]) { push(b, "1", "2", "3"); b.Lost("a"); push(b, "4") }, "1 2 3 a up"},
		"lost, no bytes": {func(b *inbox.Inbox[string]) {
			push(b, "123", strings.Repeat("x", 95))
			b.Lost("a")
			take(b, 1)
			push(b, "2") // the gap goes on
		}, strings.Repeat("x", 95) + " a up"},
		"lost while full": {func(b *inbox.Inbox[string]) { push(b, "1", "2", "3", "4"); push(b, "5"); b.Lost("a") }, "1 2 3 4 lost up a up"},
		"lost while full, again": {func(b *inbox.Inbox[string]) {
			push(b, "1", "2", "3", "4")
			push(b, "5")
			for _, e := range []string{"c", "b", "a", "d"} {
				b.Lost(e)
			}
		}, "1 2 3 4 lost up a up"},
		"lost while full, and after": {func(b *inbox.Inbox[string]) {
			push(b, "1", "2", "3", "4")
			push(b, "5")
			b.Lost("b")
			take(b, 5)
			b.Lost("a")
		}, "up b up a up"},
		"lost while down, no room": {func(b *inbox.Inbox[string]) {
			b.Down("down")
			push(b, "1", "2", "3")
			take(b, 1)
			push(b, "4")
			b.Lost("a")
			b.Restore()
			push(b, "5")
		}, "1 2 3 4 up a up"},
		"lost after down, no room": {func(b *inbox.Inbox[string]) { push(b, "1", "2"); b.Down("d"); b.Restore(); b.Lost("a") }, "1 2 d up a up"},
		"lost, a part":             {func(b *inbox.Inbox[string]) { b.DownPart(0, "-", "+", "lost"); b.Lost("a"); b.RestorePart(0) }, "- a up - +"},
		"lost, closed":             {func(b *inbox.Inbox[string]) { b.Close(errRefused); b.Lost("a") }, ""},
		"never down":               {func(b *inbox.Inbox[string]) { b.Restore() }, ""},
		"too many":                 {func(b *inbox.Inbox[string]) { push(b, "1", "2", "3", "4"); push(b, "5"); push(b, "6") }, "1 2 3 4 lost up"},
		"too many at once":         {func(b *inbox.Inbox[string]) { push(b, "1", "2", "3", "4", "5"); push(b, "6") }, "lost up 6"},
		"too large":                {func(b *inbox.Inbox[string]) { push(b, strings.Repeat("x", 101)); push(b, "1") }, "lost up 1"},
		"down while full":          {func(b *inbox.Inbox[string]) { push(b, "1", "2", "3", "4"); push(b, "5"); b.Down("down"); take(b, 3) }, "4 lost"},
		"both, link later": {func(b *inbox.Inbox[string]) {
			push(b, "1", "2", "3", "4")
			push(b, "5")
			b.Down("down")
			take(b, 3)
			b.Restore()
		}, "4 lost up"},
		"both, queue later": {func(b *inbox.Inbox[string]) { push(b, "1", "2", "3", "4"); push(b, "5"); b.Down("down"); b.Restore() }, "1 2 3 4 lost up"},
		"full while down":   {func(b *inbox.Inbox[string]) { b.Down("down"); push(b, "1", "2", "3", "4"); b.Restore() }, "down up"},
		"after the loss":    {func(b *inbox.Inbox[string]) { push(b, "1", "2", "3", "4"); push(b, "5"); take(b, 3); push(b, "6") }, "4 lost up 6"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newInbox(4, 100)
			test.run(b)
			if got := take(b, 0); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

// An Inbox takes what just fits. It takes events again once half of its room
// is free, and not before.
func TestBounds(t *testing.T) {
	push := func(t *testing.T, b *inbox.Inbox[string], bytes int, want bool) {
		t.Helper()
		if got := b.Push([]string{strings.Repeat("x", bytes)}, "lost"); got != want {
			t.Errorf("an event of %d bytes is taken: %v, want %v", bytes, got, want)
		}
	}
	t.Run("bytes", func(t *testing.T) {
		b := newInbox(100, 100)
		push(t, b, 50, true)
		push(t, b, 45, true)
		push(t, b, 1, true)
		push(t, b, 4, true)
		push(t, b, 1, false) // and 4 bytes say so
		push(t, b, 1, false)
		take(b, 1)
		push(t, b, 1, false) // 54 wait
		take(b, 1)
		push(t, b, 80, true)
	})
	t.Run("half of the bytes", func(t *testing.T) {
		b := newInbox(100, 100)
		push(t, b, 54, true)
		push(t, b, 46, true)
		push(t, b, 1, false)
		take(b, 1) // 50 wait
		push(t, b, 48, true)
	})
	t.Run("items", func(t *testing.T) {
		b := newInbox(4, 100)
		for range 4 {
			push(t, b, 1, true)
		}
		push(t, b, 1, false) // a fifth says so
		take(b, 2)
		push(t, b, 1, false)
		take(b, 1) // two wait, and Restored
		push(t, b, 1, true)
		push(t, b, 1, false)
	})
	t.Run("a part", func(t *testing.T) {
		down := func(bytes int) string {
			b := newInbox(6, 100)
			b.DownPart(0, strings.Repeat("-", bytes), strings.Repeat("+", 60), "lost")
			return take(b, 1)
		}
		if got := down(40); got == "lost" {
			t.Error("a gap that fits with its end is left out")
		}
		if got := down(41); got != "lost" {
			t.Errorf("a gap that does not fit with its end begins with %q", got)
		}
	})
}

// The gaps of parts keep apart, and give way to the gap of everything.
func TestParts(t *testing.T) {
	push := func(b *inbox.Inbox[string], events ...string) { b.Push(events, "lost") }
	down := func(b *inbox.Inbox[string], i int) {
		name := string(rune('a' + i))
		b.DownPart(i, name+"-", name+"+", "lost")
	}
	for name, test := range map[string]struct {
		run  func(b *inbox.Inbox[string])
		want string
	}{
		"apart":           {func(b *inbox.Inbox[string]) { down(b, 0); down(b, 1); b.RestorePart(0); push(b, "1"); b.RestorePart(1) }, "a- b- a+ 1 b+"},
		"twice down":      {func(b *inbox.Inbox[string]) { down(b, 0); down(b, 0); b.RestorePart(0); b.RestorePart(0) }, "a- a+"},
		"flaps":           {func(b *inbox.Inbox[string]) { down(b, 0); b.RestorePart(0); down(b, 0); b.RestorePart(0) }, "a- a+ a- a+"},
		"within all":      {func(b *inbox.Inbox[string]) { b.Down("down"); down(b, 0); b.RestorePart(0); b.Restore() }, "down up"},
		"longer than all": {func(b *inbox.Inbox[string]) { b.Down("down"); down(b, 0); b.Restore(); b.RestorePart(0) }, "down up a- a+"},
		"around all":      {func(b *inbox.Inbox[string]) { down(b, 0); b.Down("down"); b.Restore(); b.RestorePart(0) }, "a- down up a- a+"},
		"all in between":  {func(b *inbox.Inbox[string]) { down(b, 0); b.Down("down"); b.RestorePart(0); b.Restore() }, "a- down up"},
		"all, part, all":  {func(b *inbox.Inbox[string]) { b.Down("1"); b.Restore(); down(b, 0); b.Down("2"); b.Restore() }, "1 up a- 2 up a-"},
		"while full": {func(b *inbox.Inbox[string]) {
			push(b, "1", "2", "3", "4", "5", "6")
			push(b, "7")
			down(b, 0)
			take(b, 2)
		}, "3 4 5 6 lost up a-"},
		"longer than full": {func(b *inbox.Inbox[string]) {
			push(b, "1", "2", "3", "4", "5", "6")
			push(b, "7")
			down(b, 0)
			take(b, 6)
		}, "lost up a-"},
		"no room": {func(b *inbox.Inbox[string]) { push(b, "1", "2", "3", "4", "5", "6"); down(b, 0); b.RestorePart(0) }, "1 2 3 4 5 6 lost up"},
		"no room for long": {func(b *inbox.Inbox[string]) {
			for range 100 {
				down(b, 0)
				b.RestorePart(0)
			}
		}, "a- a+ a- a+ a- a+ lost up"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newInbox(6, 100)
			test.run(b)
			if got := take(b, 0); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
	b := newInbox(6, 100)
	b.Close(errors.New("end"))
	down(b, 0)
	b.RestorePart(0)
}

func TestReceive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newInbox(1<<20, 1<<30)
		end := errors.New("end")
		result := make(chan error)
		go func() {
			for want := range 100_000 {
				if e, err := b.Receive(t.Context()); err != nil || len(e) != want%7 {
					t.Errorf("event %d: %q, %v", want, e, err)
					break
				}
			}
			_, err := b.Receive(t.Context())
			result <- err
		}()
		for i := range 100_000 {
			b.Push([]string{"xxxxxxx"[:i%7]}, "lost")
		}
		b.Down("down")
		if err := <-result; err != nil {
			t.Error(err)
		}
		b.Push([]string{"1"}, "lost")
		b.Close(end)
		b.Close(errors.New("again"))
		b.Push([]string{"1"}, "lost")
		if _, err := b.Receive(t.Context()); err != end {
			t.Errorf("after Close: %v", err)
		}
	})
}

// While one Receive waits, others are refused, and take nothing of what it
// is to get.
func TestOneReceiver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newInbox(10, 100)
		for range 100 {
			type result struct {
				event string
				err   error
			}
			results := make(chan result, 2)
			for range 2 {
				go func() {
					e, err := b.Receive(t.Context())
					results <- result{e, err}
				}()
			}
			if r := <-results; r.err != errRefused {
				t.Fatalf("of two that wait one returned %q, %v", r.event, r.err)
			}
			b.Push([]string{"1"}, "lost")
			if r := <-results; r.event != "1" || r.err != nil {
				t.Fatalf("the other returned %q, %v", r.event, r.err)
			}
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		for range 2 { // one that has given up is no longer in the way
			if _, err := b.Receive(ended); err != context.Canceled {
				t.Errorf("with a context that is done: %v", err)
			}
		}
	})
}
