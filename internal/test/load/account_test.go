package load

import (
	"fmt"
	"strings"
	"testing"
)

// settle settles messages to one device, of user a in the groups x and y. sent has
// the targets of the messages 0, 1, … of one sender, sent at the times 10, 20, …;
// got has the numbers of those that arrived. A negative one is a warning, at that time
// after zero.
func settle(sent []string, gaps []Gap, got ...int) (Tally, []error) {
	d := &Device{Name: "device", User: "a", Groups: []string{"x", "y"}, Node: "node"}
	a := Account{Records: map[string][]Record{}, Devices: []*Device{d}, Gaps: map[string][]Gap{"node": gaps}}
	for i, target := range sent {
		target, err, _ := strings.Cut(target, " ")
		at := int64(10 * (i + 1))
		a.Records["s"] = append(a.Records["s"], Record{N: i, Target: target, Start: at, End: at + 5, Err: err})
	}
	for _, n := range got {
		if n < 0 {
			d.Warn(int64(-n))
			continue
		}
		r := Receipt{"s", n, "u:nobody"}
		if n < len(sent) {
			r.Target, _, _ = strings.Cut(sent[n], " ")
		}
		d.Take(r)
	}
	return a.Settle()
}

func TestSettle(t *testing.T) {
	all := Gap{Since: 15, Until: 20, All: true}
	x, y := Gap{Since: 0, Until: 100, Groups: []string{"x"}}, Gap{Since: 0, Until: 100, Groups: []string{"y"}}
	for name, c := range map[string]struct {
		sent []string
		gaps []Gap
		got  []int
		lost int
		want []string // faults
	}{
		"all well":                      {[]string{"u:a", "u:a,b", "g:x", "g:x,y", "*", "u:b", "g:z"}, nil, []int{0, 1, 2, 3, 4}, 0, nil},
		"not got":                       {[]string{"u:a", "*"}, nil, []int{0}, 0, []string{"did not get message s 1 to *"}},
		"got twice":                     {[]string{"u:a"}, nil, []int{0, 0}, 0, []string{"{s 0 u:a} twice"}},
		"nobody sent":                   {[]string{"u:a"}, nil, []int{0, 7}, 0, []string{"which nobody sent"}},
		"not meant":                     {[]string{"u:b"}, nil, []int{0}, 0, []string{"was not meant"}},
		"error, and got":                {[]string{"u:a down"}, nil, []int{0}, 0, []string{`whose Send said "down"`}},
		"error, not got":                {[]string{"u:a down"}, nil, nil, 0, nil},
		"unknown, and got":              {[]string{"u:a unknown"}, nil, []int{0}, 0, nil},
		"unknown, not got":              {[]string{"u:a unknown"}, nil, nil, 0, nil},
		"another error":                 {[]string{"u:a oops"}, nil, nil, 0, []string{"message s 0 to u:a: oops"}},
		"in a gap":                      {[]string{"u:a", "u:a"}, []Gap{all}, nil, 2, nil},
		"before and after a gap":        {[]string{"u:a", "u:a", "u:a"}, []Gap{{Since: 16, Until: 29, All: true}}, nil, 1, []string{"message s 0", "message s 2"}},
		"in another's gap":              {[]string{"u:a", "*"}, []Gap{{Since: 0, Until: 100, Users: []string{"b"}, Groups: []string{"a"}}}, nil, 0, []string{"message s 0", "message s 1"}},
		"in the user's gap":             {[]string{"u:b,a"}, []Gap{{Since: 0, Until: 100, Users: []string{"a"}}}, nil, 1, nil},
		"in everyone's gap":             {[]string{"*"}, []Gap{{Since: 0, Until: 100, Everyone: true}}, nil, 1, nil},
		"in the gap of one of groups":   {[]string{"g:x,y"}, []Gap{x}, nil, 0, []string{"message s 0 to g:x,y"}},
		"in the gaps of both groups":    {[]string{"g:x,y"}, []Gap{x, y}, nil, 1, nil},
		"out of order":                  {[]string{"u:a", "u:a"}, nil, []int{1, 0}, 0, []string{"{s 0 u:a} after number 1"}},
		"two topics have no order":      {[]string{"u:a", "g:x", "g:y"}, nil, []int{2, 1, 0}, 0, nil},
		"the same topic has":            {[]string{"u:a", "u:b,a"}, nil, []int{1, 0}, 0, []string{"{s 0 u:a} after number 1"}},
		"came by another topic":         {[]string{"g:x", "g:x,y"}, nil, []int{1, 0}, 0, nil},
		"sent in part":                  {[]string{"g:x,y unknown", "g:y"}, nil, []int{1, 0}, 0, nil},
		"sent before to the same topic": {[]string{"g:x,y", "g:y"}, nil, []int{1, 0}, 0, []string{"{s 0 g:x,y} after number 1"}},
		"lost in part":                  {[]string{"g:x,y", "g:y"}, []Gap{y}, []int{1, 0}, 0, nil},
		"lost elsewhere":                {[]string{"g:x,y", "g:y"}, []Gap{{Since: 20, Until: 30, All: true}}, []int{1, 0}, 0, []string{"{s 0 g:x,y} after number 1"}},
		"lost in part, and warned":      {[]string{"g:x,y", "g:y"}, nil, []int{-12, 1, 0}, 0, nil},
		"warned before":                 {[]string{"g:x,y", "g:y"}, nil, []int{-9, 1, 0}, 0, []string{"{s 0 g:x,y} after number 1"}},
		"warned behind":                 {[]string{"g:x,y", "g:y"}, nil, []int{1, 0, -30}, 0, []string{"{s 0 g:x,y} after number 1"}},
		"warned, but by one topic":      {[]string{"g:y", "g:y"}, nil, []int{-12, 1, 0}, 0, []string{"{s 0 g:y} after number 1"}},
	} {
		total, faults := settle(c.sent, c.gaps, c.got...)
		if total.Lost != c.lost || len(faults) != len(c.want) {
			t.Errorf("%s: %d lost, %d faults: %v; expected %d, %q", name, total.Lost, len(faults), faults, c.lost, c.want)
			continue
		}
		text := fmt.Sprint(faults)
		for _, want := range c.want {
			if !strings.Contains(text, want) {
				t.Errorf("%s: %v; expected %q", name, faults, want)
			}
		}
	}
}

func TestParseReceipt(t *testing.T) {
	for message, want := range map[string]Receipt{
		"m 1.0 7 u:a":              {"1.0", 7, "u:a"},
		"m 1.0 7 u:a ":             {"1.0", 7, "u:a"},
		"m 1.0 7 * and \x00 so on": {"1.0", 7, "*"},
	} {
		if r, ok := ParseReceipt([]byte(message)); !ok || r != want {
			t.Errorf("%q: %v, %v", message, r, ok)
		}
	}
	for _, message := range []string{"", "fence 1.0", "m 1.0 7", "m 1.0 x *", "m 1.0 -1 *"} {
		if r, ok := ParseReceipt([]byte(message)); ok {
			t.Errorf("%q: %v", message, r)
		}
	}
}
