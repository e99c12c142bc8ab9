package herald

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"

	"github.com/heraldgo/herald/internal/rate"
)

// The bounds of the log. Errors of several servers joined are the longest
// values that a person needs; a stack is no client's to choose.
const (
	logRate     = 10      // lines of one kind a second
	maxLogValue = 1 << 10 // bytes
	maxLogStack = 16 << 10
)

// A logLimit stands between the Hub and the handler of Config.Logger, so that
// no client can fill the log: it cuts long values, and leaves out lines of which
// there are many. Each kind, a level and a message, has a limit of its own, so
// that a flood of one hides no other.
type logLimit struct {
	slog.Handler
	stats *counters

	mu    sync.Mutex
	kinds map[logKind]*logFlow // of herald's own messages, so they are few
}

type logKind struct {
	level   slog.Level
	message string
}

type logFlow struct {
	rate    rate.Bucket
	leftOut int // since the last line
}

func newLogLimit(h slog.Handler, stats *counters) *logLimit {
	return &logLimit{Handler: h, stats: stats, kinds: make(map[logKind]*logFlow)}
}

// Handle hands on a line that is within the limits. The next one that is tells
// how many were not.
func (l *logLimit) Handle(ctx context.Context, r slog.Record) error {
	leftOut, ok := l.allow(logKind{r.Level, r.Message})
	if !ok {
		l.stats.logsLeftOut.Add(1)
		return nil
	}
	line := slog.NewRecord(r.Time, r.Level, r.Message, r.PC)
	r.Attrs(func(a slog.Attr) bool {
		line.AddAttrs(cutAttr(a))
		return true
	})
	if leftOut > 0 {
		line.AddAttrs(slog.Int("left_out", leftOut))
	}
	return l.Handler.Handle(ctx, line)
}

func (l *logLimit) allow(kind logKind) (leftOut int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	flow := l.kinds[kind]
	if flow == nil {
		flow = new(logFlow)
		l.kinds[kind] = flow
	}
	if !flow.rate.Allow(logRate) {
		flow.leftOut++
		return 0, false
	}
	leftOut, flow.leftOut = flow.leftOut, 0
	return leftOut, true
}

// cutAttr returns a, or the beginning of its text if that is long. An error
// that is short stays one, for handlers that look into it.
func cutAttr(a slog.Attr) slog.Attr {
	text := ""
	switch a.Value.Kind() {
	case slog.KindString:
		text = a.Value.String()
	case slog.KindAny:
		text = fmt.Sprint(a.Value.Any())
	}
	limit := maxLogValue
	if a.Key == "stack" {
		limit = maxLogStack
	}
	if len(text) <= limit {
		return a
	}
	// A character that was cut in two would be written as an odd one.
	return slog.String(a.Key, fmt.Sprintf("%s… (%d bytes)", strings.ToValidUTF8(text[:limit], ""), len(text)))
}
