package redislog

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald/internal/errs"
	"github.com/heraldgo/herald/internal/history"
	"github.com/heraldgo/herald/internal/history/store"
)

// A liar is a Redis that answers scripts with anything, and later not at all.
type liar struct {
	redis.Scripter // nil, because only EVALSHA is called
	answers        []any
}

var errSilent = errors.New("it says no more")

func (l *liar) EvalSha(ctx context.Context, _ string, _ []string, _ ...any) *redis.Cmd {
	cmd := redis.NewCmd(ctx)
	if len(l.answers) == 0 {
		cmd.SetErr(errSilent)
		return cmd
	}
	if err, ok := l.answers[0].(error); ok {
		cmd.SetErr(err)
	} else {
		cmd.SetVal(l.answers[0])
	}
	l.answers = l.answers[1:]
	return cmd
}

func (l *liar) Pipelined(_ context.Context, fn func(redis.Pipeliner) error) ([]redis.Cmder, error) {
	pipe := &lyingPipe{liar: l}
	return nil, cmp.Or(fn(pipe), pipe.err)
}

// A lyingPipe answers commands as its liar answers scripts.
type lyingPipe struct {
	redis.Pipeliner // nil, because only Do is called
	liar            *liar
	err             error
}

func (p *lyingPipe) Do(ctx context.Context, _ ...any) *redis.Cmd {
	cmd := p.liar.EvalSha(ctx, "", nil)
	p.err = cmp.Or(p.err, cmd.Err())
	return cmd
}

func newLiar(answers ...any) *Log {
	l := New(Config{Client: &liar{answers: answers}, Limits: store.Limits{Segment: 8, Age: 1000, Bytes: 1000}, Copies: NewBudget(1000)})
	l.end = history.Point{Epoch: 1, Offset: 9} // so that it guesses
	return l
}

// calls has all calls of a Log to Redis.
var calls = map[string]func(context.Context, *Log) error{
	"append": func(ctx context.Context, l *Log) error {
		_, err := l.Append(ctx, history.Point{Epoch: 1}, 0, []store.Draft{{Topics: []string{"a"}}})
		return err
	},
	"fence": func(ctx context.Context, l *Log) error {
		_, err := l.Fence(ctx, history.Point{}, 7)
		return err
	},
	"renew": func(ctx context.Context, l *Log) error {
		_, err := l.Renew(ctx, history.Point{}, 1)
		return err
	},
	"trim": func(ctx context.Context, l *Log) error { return l.Trim(ctx, history.Point{}) },
	"survey": func(ctx context.Context, l *Log) error {
		s, err := l.Survey(ctx, history.Point{}, history.Point{Epoch: 1, Offset: 2}, []string{"a", "b"}, 3)
		if err == nil && (s.From > s.End.Offset || len(s.Offsets) > 3) {
			return fmt.Errorf("and nobody refuses %+v", s)
		}
		return err
	},
	"read": func(ctx context.Context, l *Log) error {
		x, _, err := l.Read(ctx, history.Point{}, 1, []history.Offset{3}, []history.Offset{4})
		if len(x.Entries) > 2 || len(x.Offsets) > 2 {
			return fmt.Errorf("and nobody refuses %+v", x)
		}
		return err
	},
	"scan": func(ctx context.Context, l *Log) error {
		l.copies.looked(1, []history.Offset{3})
		err := l.scan(ctx, 1, l.copies.segments[0], 2)
		if s := l.copies.segments[0]; len(s.entries) > 0 && (s.entries[0].Offset < 3 || s.through > 8) {
			return fmt.Errorf("and nobody refuses %+v", s)
		}
		return err
	},
	"forget": func(ctx context.Context, l *Log) error { return l.Forget(ctx, history.Point{}, []string{"a", "b"}) },
}

// list returns an answer of a script.
func list(parts ...any) []any { return append([]any{}, parts...) }

// good returns the common beginning of all answers, followed by more.
func good(more ...any) []any { return append(list(int64(1), "1", int64(9), ""), more...) }

func ints(n ...int64) (l []any) {
	l = []any{}
	for _, n := range n {
		l = append(l, n)
	}
	return l
}

// An answer that no script gives is refused, and the error says which it was.
func TestHostileAnswers(t *testing.T) {
	look := good(int64(0), int64(9), ints(5, 0), list(), ints(), ints(), int64(1), list())
	scanned := func(id string, fields ...any) []any { return list(list(id, fields)) }
	walked := func(parts ...any) []any { return append(look[:len(look)-4:len(look)-4], parts...) }
	for _, c := range []struct {
		call    string
		answers []any
		want    string
	}{
		{"fence", list("OK"), "string of 0 parts, not 4"},
		{"fence", list(nil), "<nil> of 0 parts"},
		{"fence", list(list(int64(1), "1", int64(9))), "of 3 parts, not 4"},
		{"fence", list(list(int64(1), int64(1), int64(9), "")), "int64 where a text belongs"},
		{"fence", list(list(int64(1), "0", int64(9), "")), `the epoch "0"`},
		{"fence", list(list(int64(1), "g", int64(9), "")), `the epoch "g"`},
		{"fence", list(list(int64(1), "1", int64(-9), "")), "the number -9"},
		{"fence", list(list(int64(1), "1", int64(1)<<54, "")), "where a number belongs"},
		{"fence", list(list(int64(1), "1", int64(1), "1 2")), `the agreement "1 2"`},
		{"fence", list(list(int64(1), "1", int64(1), "0 2 3")), `the agreement "0 2 3"`},
		{"renew", list(good("more")[:2]), "of 2 parts"},
		{"append", list(good(int64(4))), "the outcome 4"},
		{"append", list(good(int64(3))), "5 parts"},
		{"append", list(good("taken")), "where a number belongs"},
		{"trim", list(good(int64(0), "x")), "where a number belongs"},
		{"trim", list(good(int64(-1), int64(0))), "the number -1"},
		{"survey", list(good(int64(0), "", ints(5), list(), ints(), ints(), int64(1), list())), "1 and 0 offsets for 2 topics"},
		{"survey", list(good(int64(0), "", ints(5, 0), ints(1), ints(), ints(), int64(1), list())), "2 and 1 offsets for 2 topics"},
		{"survey", list(good(int64(10), "", ints(5, 0), list(), ints(), ints(), int64(1), list())), "ends at 9, and begins at 10"},
		{"survey", list(good(int64(0), int64(10), ints(5, 0), list(), ints(), ints(), int64(1), list())), "ends at 9, and begins at 0 or 10"},
		{"survey", list(good(int64(0), "x", ints(5, 0), list(), ints(), ints(), int64(1), list())), ""},
		{"survey", list(good(int64(0), int64(9), "x", list(), ints(), ints(), int64(1), list())), "string where a list belongs"},
		{"survey", list(look, good(ints(), ints(5), int64(1), list())), "chains that stand still"},
		{"survey", list(look, good(ints(), ints(6), int64(1), list())), "goes up from 5 to 6"},
		{"survey", list(look, good(ints(5, 4, 3, 2, 1), ints(0), int64(1), list())), "5 offsets"},
		{"survey", list(look, good(ints(4, 5), ints(0), int64(1), list())), "do not fall"},
		{"survey", list(look, good(ints(5), ints(), int64(1), list())), "0 places for 1 chains"},
		{"survey", list(look, good(ints(5), ints(0), int64(1), list("x", "y"))), "2 parts of entries for 1 offsets"},
		{"survey", list(look, good(ints(5), ints(0), int64(1), list("1", "", int64(3)))), "an entry"},
		{"survey", list(look, good(ints(5), ints(0), int64(1), list("0", "", "body"))), "an entry"},
		{"survey", list(look, good(ints(5), ints(0), int64(1), list("1", "3 9:a", "body"))), "an entry"},
		{"survey", list(look, good(ints(5), ints(0), int64(1), "x")), "string where a list belongs"},
		{"survey", list(walked(ints(5), ints(6), int64(1), list())), "goes up from 5 to 6"},
		{"survey", list(walked(ints(5, 4, 3, 2, 1), ints(0), int64(1), list())), "5 offsets"},
		{"survey", list(walked(ints(4, 5), ints(0), int64(1), list())), "do not fall"},
		{"survey", list(walked(ints(5), ints(0, 0), int64(1), list())), "2 places for 1 chains"},
		{"survey", list(walked(ints(5), ints(0), int64(1), list("0", "", "body"))), "an entry"},
		{"survey", list(walked(ints(), "x", int64(1), list())), "string where a list belongs"},
		{"survey", list(list(int64(1), "1", int64(most), "", int64(0), int64(9), ints(most, most), list(), ints(), ints(), int64(1), list())), errSilent.Error()},
		{"read", list(good(int64(3), list())), "3 of 2 offsets"},
		{"read", list(good(int64(0), list())), "0 of 2 offsets"},
		{"read", list(good(int64(2), list(list(int64(5), "1", "", "body")))), "an entry at 5 that was not asked for"},
		{"read", list(good(int64(2), list(list(int64(4), "1", "", ""), list(int64(3), "1", "", "")))), "an entry at 3 that was not"},
		{"read", list(good(int64(2), list(list(int64(3), "0", "", "body")))), "an entry"},
		{"read", list(good(int64(2), list(list(int64(3), "1", "3 9:a", "body")))), "an entry"},
		{"read", list(good(int64(2), list("x"))), "an entry"},
		{"scan", list("x"), "string where a list belongs"},
		{"scan", list(list("x")), "a segment of the log has x"},
		{"scan", list(scanned("3-0", "1", "", "")), "has [3-0 [1  ]]"},
		{"scan", list(scanned("2-0", "1", "", "", "body")), "has [2-0 [1   body]] between 2 and 8"},
		{"scan", list(scanned("9-0", "1", "", "", "body")), "between 2 and 8"},
		{"scan", list(scanned("x", "1", "", "", "body")), "between 2 and 8"},
		{"scan", list(append(scanned("3-0", "1", "", "", ""), scanned("3-0", "1", "", "", "")...)), "between 3 and 8"},
		{"scan", list(scanned("3-0", "0", "", "", "body")), "between 2 and 8"},
		{"scan", list(scanned("3-0", "1", "3 9:a", "", "body")), "between 2 and 8"},
		{"scan", list(scanned("3-0", "1", "3 1:a", "", "body")), "between 2 and 8"},
		{"forget", list(good(int64(0), ints(1))), "1 offsets for 2 topics"},
		{"forget", list(good(int64(0), ints(5, 0)), good(ints(5), ints(0), int64(1), list()), "OK"), "string of 0 parts"},
	} {
		err := calls[c.call](t.Context(), newLiar(c.answers...))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %.80v: %v; want %q", c.call, c.answers, err, c.want)
		}
		if c.call == "append" && !errors.Is(err, errs.Unknown) {
			t.Errorf("%v: it may have been published", err)
		}
	}
}

// Whatever Redis answers, each call ends, and returns no more than was asked for.
func FuzzAnswers(f *testing.F) {
	f.Add([]byte("\x00\x01\x02"), true)
	f.Add([]byte{3, 3, 0, 5, 0, 9, 3, 2, 0, 5, 0, 4}, true)
	f.Add([]byte{3, 5, 0, 1, 1, 1, '1', 0, 9, 1, 0, 2}, false)
	f.Fuzz(func(t *testing.T, data []byte, plausible bool) {
		for name, call := range calls {
			rest := data
			var answers []any
			for len(rest) > 0 && len(answers) < 50 {
				v := value(&rest, 0)
				if parts, ok := v.([]any); ok && plausible {
					v = good(parts...)
				}
				answers = append(answers, v)
			}
			err := call(t.Context(), newLiar(answers...))
			if err != nil && strings.HasPrefix(err.Error(), "and nobody") {
				t.Errorf("%s: %v, %v", name, answers, err)
			}
		}
		if links, ok := parseLinks(string(data)); ok && len(links) > len(data) {
			t.Errorf("%d links in %q", len(links), data)
		}
	})
}

// value takes a value from data, of a type that go-redis may return.
func value(data *[]byte, depth int) any {
	next := func() (b byte) {
		if len(*data) > 0 {
			b, *data = (*data)[0], (*data)[1:]
		}
		return b
	}
	switch kind, n := next()%8, int(next()%8); {
	case kind == 0:
		return int64(n)
	case kind == 1:
		n = min(n, len(*data))
		text := string((*data)[:n])
		*data = (*data)[n:]
		return text
	case kind == 2:
		return nil
	case kind == 3 && depth < 4:
		parts := []any{}
		for range n {
			parts = append(parts, value(data, depth+1))
		}
		return parts
	case kind == 4:
		return errors.New("an error in a list")
	case kind == 5 && len(*data) >= 8:
		v := int64(binary.LittleEndian.Uint64(*data))
		*data = (*data)[8:]
		return v
	case kind == 6:
		return fmt.Sprintf("%d %d:", n, n)
	}
	return 1.5
}

// A Redis that is too old is told apart from one that is broken. A scan runs no script.
func TestOldRedis(t *testing.T) {
	for said, old := range map[string]bool{
		"ERR Error running script (call to f_1): @user_script:100: @user_script: 100: Unknown Redis command called from Lua script": true, // Redis 6.0
		"ERR Unknown Redis command called from script script: 1, on @user_script:100.":                                              true, // Redis 7.0
		"ERR Unknown command called from script script: on @user_script:100.":                                                       true, // Valkey 9
		"ERR unknown command 'EVALSHA'": false,
	} {
		for name, call := range calls {
			err := call(t.Context(), newLiar(errors.New(said)))
			if err == nil || strings.Contains(err.Error(), "needs Redis 6.2") != (old && name != "scan") || !strings.Contains(err.Error(), said) {
				t.Errorf("%s, if Redis says %q: %v", name, said, err)
			}
		}
	}
}
