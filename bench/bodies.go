package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"time"
)

// bodies are JSON objects of one size, as a chat or a feed sends them, one message after
// the other. The head of a message is its id.
type bodies []string

const (
	bodyStart = `{"id":"`
	bodyEnd   = `"}`
	bodyCount = 499 // a prime: whoever gets every hundredth message gets every body
	lineSize  = 512
	postSize  = 500 // at most, of one that is answered
)

// payload makes a message over b: a body, or if there are none what makePayload makes.
func (bs bodies) payload(b []byte, number int, at time.Time) payload {
	if len(bs) == 0 {
		return makePayload(b, number, at)
	}
	return asPayload(bs.append(b[:0], number, at.UnixNano()))
}

func (bs bodies) append(b []byte, number int, at int64) []byte {
	start := len(b) + len(bodyStart)
	b = append(b, bs[number%len(bs)]...)
	appendHead(b[:start], number, at)
	return b
}

// spoilt returns how many of the messages in b, which is one frame's payload, are not what
// was sent, to the last byte.
func (bs bodies) spoilt(b []byte) (n int64) {
	for {
		i := bytes.Index(b, []byte(mark))
		if i < 0 {
			return n
		}
		findMessages(b[i:min(len(b), i+payloadMin)], func(number int, at int64) {
			if begin := i - len(bodyStart); begin < 0 || !bytes.HasPrefix(b[begin:], bs.append(nil, number, at)) {
				n++
			}
		})
		b = b[i+len(mark):]
	}
}

func readBodies(path string) (bodies, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var bs bodies
	if err := json.Unmarshal(b, &bs); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return bs, nil
}

func (bs bodies) write(path string) error {
	b, err := json.Marshal(bs)
	if err != nil {
		return err
	}
	return os.WriteFile(path, b, 0o600)
}

// newBodies makes bodies of size bytes, the same in each run: lines of a chat, or, from
// lineSize on, posts with the posts that they answer.
func newBodies(size int) bodies {
	w := &writer{rand: rand.New(rand.NewPCG(uint64(size), 1))}
	w.zipf = rand.NewZipf(w.rand, 1.2, 4, uint64(len(words)-1))
	bs := make(bodies, bodyCount)
	for i := range bs {
		w.b.Reset()
		w.b.WriteString(bodyStart + strings.Repeat("0", payloadMin) + `"`)
		fmt.Fprintf(&w.b, `,"room":%d,"from":"%s"`, w.rand.IntN(5000), w.name())
		if size >= lineSize {
			w.posts(size - postSize)
		}
		w.text(size - w.b.Len() - len(`,"text":"`) - len(bodyEnd))
		w.b.WriteString(bodyEnd)
		bs[i] = w.b.String()
	}
	return bs
}

// A writer makes up what people write.
type writer struct {
	rand *rand.Rand
	zipf *rand.Zipf
	b    strings.Builder
}

// posts writes a list of them, until there are size bytes or a little more.
func (w *writer) posts(size int) {
	w.b.WriteString(`,"type":"answer","unread":` + fmt.Sprint(w.rand.IntN(40)) + `,"posts":[`)
	for comma := ""; w.b.Len() < size; comma = "," {
		fmt.Fprintf(&w.b, `%s{"post":%d`, comma, w.rand.IntN(1e6))
		w.post()
		w.text(40 + w.rand.IntN(120))
		w.b.WriteString(bodyEnd)
	}
	w.b.WriteString("]")
}

// post writes the members of a post, but for its text.
func (w *writer) post() {
	author := w.rand.Uint32()
	sent := time.Date(2026, time.November, 1, 0, 0, w.rand.IntN(2_500_000), 0, time.UTC)
	fmt.Fprintf(&w.b, `,"author":{"id":"u%d","name":"%s","avatar":"img/u%d-64.png"},"sent":"%s"`,
		author%100_000, w.name(), author%100_000, sent.Format(time.RFC3339))
	w.b.WriteString(`,"reactions":[`)
	for i := range w.rand.IntN(4) {
		if i > 0 {
			w.b.WriteString(",")
		}
		fmt.Fprintf(&w.b, `{"kind":"%s","count":%d}`, []string{"like", "laugh", "heart", "thanks"}[i], 1+w.rand.IntN(30))
	}
	w.b.WriteString(`],"attachments":[`)
	if w.rand.IntN(3) == 0 {
		fmt.Fprintf(&w.b, `{"file":"%08x.jpg","bytes":%d,"width":1280,"height":%d}`,
			w.rand.Uint32(), w.rand.IntN(4_000_000), []int{720, 960, 1280}[w.rand.IntN(3)])
	}
	fmt.Fprintf(&w.b, `],"edited":%t,"pinned":false,"replies":%d`, w.rand.IntN(4) == 0, w.rand.IntN(12))
}

// text writes a text of n bytes.
func (w *writer) text(n int) {
	var t strings.Builder
	for start := true; t.Len() < n; start = false {
		word := words[w.zipf.Uint64()]
		switch w.rand.IntN(40) {
		case 0:
			word = w.name()
		case 1:
			word = w.syllables(2 + w.rand.IntN(3))
		case 2:
			word = fmt.Sprint(w.rand.IntN(3000))
		}
		if start {
			t.WriteString(strings.ToUpper(word[:1]) + word[1:])
		} else {
			t.WriteString([]string{" ", " ", " ", " ", " ", " ", " ", ", "}[w.rand.IntN(8)] + word)
		}
	}
	w.b.WriteString(`,"text":"` + t.String()[:n])
}

func (w *writer) name() string {
	s := w.syllables(2 + w.rand.IntN(2))
	return strings.ToUpper(s[:1]) + s[1:]
}

func (w *writer) syllables(n int) string {
	var b strings.Builder
	for range n {
		b.WriteByte("bdfghjklmnprstvz"[w.rand.IntN(16)])
		b.WriteByte("aeiou"[w.rand.IntN(5)])
		if w.rand.IntN(3) == 0 {
			b.WriteByte("lnrst"[w.rand.IntN(5)])
		}
	}
	return b.String()
}

// words are frequent ones, the most frequent first.
var words = strings.Fields(`the to and a of in is it you that for on we I be with this are at not
	have as was but they can will if from so my all one what your or there when about do just like
	out up get been time how go has me know their no would good our more some want here today back
	see now them who then make work then need think really could should tomorrow after new right
	because people before meeting still last week over come where too going thanks first much only
	morning into look great also house day well take other way very off even something again old
	never train home thing find long always which better every little tonight car night place help
	ticket photo street order dinner water school weather summer garden price number address office
	music kitchen question answer minute message problem version holiday weekend yesterday station
	evening children different important together remember everybody possible between afternoon`)
