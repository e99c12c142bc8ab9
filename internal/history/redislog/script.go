package redislog

import (
	"embed"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald/internal/history"
	"github.com/heraldgo/herald/internal/history/store"
)

//go:embed lua/*.lua
var luaFiles embed.FS

var (
	appendScript = script("append")
	fenceScript  = script("fence")
	renewScript  = script("renew")
	trimScript   = script("trim")
	lookScript   = script("links", "chains", "look")
	walkScript   = script("links", "chains", "walk")
	readScript   = script("read")
	forgetScript = script("forget")
	eraseScript  = script("links", "erase")
)

// script returns the script made of common.lua and the files.
func script(files ...string) *redis.Script {
	var source strings.Builder
	for _, file := range append([]string{"common"}, files...) {
		b, err := luaFiles.ReadFile("lua/" + file + ".lua")
		if err != nil {
			panic(err) // the file is not in the program
		}
		source.Write(b)
	}
	return redis.NewScript(source.String())
}

// An answer is the answer of a script: the time, the end of the log, an agreement if
// the caller knows another one, and more. A part that is not as it should be sets
// err, and reads as zero.
type answer struct {
	parts  []any
	end    history.Point
	agreed store.Agreement
	err    error
}

// common is how many parts all answers have.
const common = 4

// most is the highest integer up to which doubles hold each one.
const most = 1 << 53

func newAnswer(value any, parts int) (answer, error) {
	var a answer
	a.parts, _ = value.([]any)
	if len(a.parts) < parts {
		a.fail("%T of %d parts, not %d", value, len(a.parts), parts)
		return a, a.err
	}
	a.end = history.Point{Epoch: parseEpoch(a.text(1)), Offset: history.Offset(a.number(2))}
	if a.err == nil && a.end.Epoch == 0 {
		a.fail("the epoch %.20q", a.text(1))
	}
	if text := a.text(3); text != "" {
		var ok bool
		if a.agreed, ok = parseAgreement(text); !ok {
			a.fail("the agreement %.40q", text)
		}
	}
	return a, a.err
}

func (a *answer) fail(format string, args ...any) {
	if a.err == nil {
		a.err = fmt.Errorf("herald: Redis answered a script of the log with "+format, args...)
	}
}

func (a *answer) part(i int) any {
	if i >= len(a.parts) {
		a.fail("%d parts", len(a.parts))
		return nil
	}
	return a.parts[i]
}

func (a *answer) text(i int) string {
	s, ok := a.part(i).(string)
	if !ok {
		a.fail("%T where a text belongs", a.part(i))
	}
	return s
}

func (a *answer) signed(i int) int64 {
	n, ok := a.part(i).(int64)
	if !ok || n > most || n < -most {
		a.fail("%.20v where a number belongs", a.part(i))
		return 0
	}
	return n
}

func (a *answer) number(i int) uint64 {
	n := a.signed(i)
	if n < 0 {
		a.fail("the number %d", n)
		return 0
	}
	return uint64(n)
}

// list returns a part that is a list, as an answer of its own.
func (a *answer) list(i int) answer {
	parts, ok := a.part(i).([]any)
	if !ok {
		a.fail("%T where a list belongs", a.part(i))
	}
	return answer{parts: parts}
}

// numbers returns the numbers of a list.
func (a *answer) numbers(i int) []history.Offset {
	list := a.list(i)
	numbers := make([]history.Offset, len(list.parts))
	for k := range numbers {
		numbers[k] = history.Offset(list.number(k))
	}
	if list.err != nil {
		a.fail("a list: %v", list.err)
	}
	return numbers
}
