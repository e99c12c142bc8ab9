// Package loglimit bounds a log, so that no client can fill it.
package loglimit

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/heraldgo/herald/internal/rate"
)

// The bounds of the log. The longest values that a person needs are joined errors of
// several servers. No client chooses a stack.
const (
	linesPerSecond = 10      // for each kind
	maxValue       = 1 << 10 // bytes
	maxStack       = 16 << 10
)

// A handler cuts long values, and leaves out lines if too many of a kind come.
type handler struct {
	next    slog.Handler
	flows   *flows
	leftOut *atomic.Uint64
}

// flows are shared by all handlers that derive from one. Each kind of line, a level
// and a message, has its own limit, so a flood of one kind hides no other.
type flows struct {
	mu    sync.Mutex
	kinds map[kind]*flow // only the program's own messages make kinds, so they are few
}

type kind struct {
	level   slog.Level
	message string
}

type flow struct {
	rate    rate.Bucket
	leftOut int // lines left out since the last one
}

// New returns a handler in front of next. It counts in leftOut the lines that it
// leaves out.
func New(next slog.Handler, leftOut *atomic.Uint64) slog.Handler {
	return &handler{next, &flows{kinds: make(map[kind]*flow)}, leftOut}
}

func (h *handler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.next.Enabled(ctx, level)
}

// WithAttrs returns a handler that shares the limits.
func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	attrs = slices.Clone(attrs)
	for i, a := range attrs {
		attrs[i] = cut(a)
	}
	return &handler{h.next.WithAttrs(attrs), h.flows, h.leftOut}
}

// WithGroup returns a handler that shares the limits.
func (h *handler) WithGroup(name string) slog.Handler {
	return &handler{h.next.WithGroup(name), h.flows, h.leftOut}
}

// Handle hands on a line if it is within the limits, with the number of those left
// out before it.
func (h *handler) Handle(ctx context.Context, r slog.Record) error {
	leftOut, ok := h.flows.allow(kind{r.Level, r.Message})
	if !ok {
		h.leftOut.Add(1)
		return nil
	}
	line := slog.NewRecord(r.Time, r.Level, r.Message, r.PC)
	r.Attrs(func(a slog.Attr) bool {
		line.AddAttrs(cut(a))
		return true
	})
	if leftOut > 0 {
		line.AddAttrs(slog.Int("left_out", leftOut))
	}
	return h.next.Handle(ctx, line)
}

// allow reports whether a line of the kind may be written now, and how many were
// left out before it.
func (f *flows) allow(k kind) (leftOut int, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	of := f.kinds[k]
	if of == nil {
		of = new(flow)
		f.kinds[k] = of
	}
	if !of.rate.Allow(linesPerSecond) {
		of.leftOut++
		return 0, false
	}
	leftOut, of.leftOut = of.leftOut, 0
	return leftOut, true
}

// cut returns a, or the beginning of its text if that is long. A short error stays an
// error, for handlers that inspect it.
func cut(a slog.Attr) slog.Attr {
	text := ""
	switch a.Value.Kind() {
	case slog.KindString:
		text = a.Value.String()
	case slog.KindAny:
		text = fmt.Sprint(a.Value.Any())
	}
	limit := maxValue
	if a.Key == "stack" {
		limit = maxStack
	}
	if len(text) <= limit {
		return a
	}
	// A character that is cut in two would be written as an odd one.
	return slog.String(a.Key, fmt.Sprintf("%s… (%d bytes)", strings.ToValidUTF8(text[:limit], ""), len(text)))
}
