package locallog_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heraldgo/herald/internal/history"
	"github.com/heraldgo/herald/internal/history/locallog"
	"github.com/heraldgo/herald/internal/history/packet"
	"github.com/heraldgo/herald/internal/history/store"
)

// A wire records what a Server publishes: the topic, the offset and the end of the
// body.
type wire struct {
	fail error
	got  []string
}

func (w *wire) publish(topic string, data []byte) {
	if end, number, err := packet.ParseFence(data); err == nil {
		w.got = append(w.got, fmt.Sprintf("%s %d %d", topic, end.Offset, number))
	} else if p, err := packet.Parse(topic, data); err == nil {
		w.got = append(w.got, fmt.Sprintf("%s %d %s", topic, p.At.Offset, ending(p.Body)))
	}
}

func body(text string) []byte { return packet.Body([]byte("\x01\x01\x02" + text)) }

func ending(body []byte) string { return string(body[len(body)-3:]) }

func (w *wire) failing() error { return w.fail }

// Appended messages are published in order, in memory of their own, and can be
// read. Messages that are older than the log keeps them cannot be read.
func TestLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w wire
		l := locallog.New(1, w.publish).Log("fences", store.Limits{Age: 1000, Bytes: 1 << 20}, w.failing)
		end, err := l.Fence(t.Context(), history.Point{}, 5)
		if err != nil || end.Epoch == 0 || end.Offset != 0 {
			t.Fatalf("the end of an empty log is %v, %v", end, err)
		}
		for segment, text := range []string{"one", strings.Repeat("x", 1000) + "two"} {
			b := body(text)
			reply, err := l.Append(t.Context(), end, uint64(segment), []store.Draft{{Topics: []string{"a"}, Body: b}})
			if err != nil || reply.Outcome != store.Taken || reply.Published != nil {
				t.Fatalf("%+v, %v", reply, err)
			}
			end = reply.End
			clear(b) // the caller may use them again
		}
		if err := l.Publish(t.Context(), []store.Draft{{Topics: []string{"b", "c"}, Body: body("not")}}); err != nil {
			t.Fatal(err)
		}
		if want := []string{"fences 0 5", "a 1 one", "a 2 two", "b 0 not", "c 0 not"}; !slices.Equal(w.got, want) {
			t.Errorf("published is %q", w.got)
		}
		read := func() (bodies []string) {
			t.Helper()
			survey, err := l.Survey(t.Context(), end, history.Point{Epoch: end.Epoch}, []string{"a"}, 10)
			if err != nil {
				t.Fatal(err)
			}
			first := min(1, len(survey.Offsets))
			x, ok, err := l.Read(t.Context(), end, end.Epoch, survey.Offsets[first:], survey.Offsets[:first])
			if err != nil || !ok {
				t.Fatalf("it cannot be read: %v, %v", ok, err)
			}
			for _, e := range x.Entries {
				bodies = append(bodies, ending(e.Body))
			}
			return bodies
		}
		if got := read(); !slices.Equal(got, []string{"one", "two"}) {
			t.Errorf("there is %q", got)
		}
		time.Sleep(time.Second)
		if err := l.Trim(t.Context(), end); err != nil {
			t.Fatal(err)
		}
		if got := read(); !slices.Equal(got, []string{"two"}) {
			t.Errorf("after a second there is %q", got)
		}
		if err := l.Forget(t.Context(), end, []string{"a"}); err != nil {
			t.Fatal(err)
		}
		if got := read(); len(got) != 0 {
			t.Errorf("when it is forgotten there is %q", got)
		}
	})
}

// A call that fails has no effect.
func TestFails(t *testing.T) {
	var w wire
	l := locallog.New(8, w.publish).Log("fences", store.Limits{Age: 1000, Bytes: 1 << 20}, w.failing)
	end, err := l.Fence(t.Context(), history.Point{}, 1)
	if err != nil {
		t.Fatal(err)
	}
	done, cancel := context.WithCancel(t.Context())
	cancel()
	batch := []store.Draft{{Topics: []string{"a"}, Body: body("one")}}
	if _, err := l.Append(done, end, 0, batch); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that is done: %v", err)
	}
	w.fail = errors.New("down")
	if _, err := l.Append(t.Context(), end, 0, batch); err != w.fail {
		t.Errorf("while it fails: %v", err)
	}
	w.fail = nil
	if len(w.got) != 1 {
		t.Errorf("published is %q", w.got)
	}
	if again, err := l.Renew(t.Context(), end, end.Epoch); err != nil || again.Epoch == end.Epoch || again.Offset != 0 {
		t.Errorf("the next epoch begins at %v, %v", again, err)
	}
}
