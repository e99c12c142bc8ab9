package conflate

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/heraldgo/herald/internal/ring"
)

// Only the same key of the same target has the same Sum.
func TestSumOf(t *testing.T) {
	type of struct {
		kind byte
		ids  []string
		key  string
	}
	all := []of{
		{1, nil, "k"}, {2, nil, "k"}, {1, nil, "K"}, {1, nil, "\x00k"},
		{1, []string{""}, "k"}, {1, []string{"k"}, ""}, {1, []string{"a"}, "k"},
		{1, []string{"a", "b"}, "k"}, {1, []string{"ab"}, "k"}, {1, []string{"a\x01b"}, "k"}, {1, []string{"a"}, "bk"},
		{1, []string{"a", "bk"}, ""}, {1, []string{"a", ""}, "k"},
	}
	sums := make(map[Sum]of)
	for _, o := range all {
		sum := SumOf(o.kind, o.ids, o.key)
		if other, ok := sums[sum]; ok {
			t.Errorf("%+v and %+v have one Sum", o, other)
		}
		if sums[sum] = o; SumOf(o.kind, slices.Clone(o.ids), o.key) != sum {
			t.Errorf("%+v has two Sums", o)
		}
	}
}

// The message of a key that waits is found, wherever it is, and no other; what has left
// the queue is forgotten.
func TestKeys(t *testing.T) {
	type message struct {
		frame []byte
		key   Key
	}
	for seed := range uint64(50) {
		random := rand.New(rand.NewPCG(seed, 0))
		var k Keys
		var frames ring.Ring[[]byte]
		var want []message
		for n := range 500 {
			key := Key{Sum: Sum{byte(random.IntN(5))}, Log: uint8(random.IntN(2))}
			switch random.IntN(5) {
			case 0, 1:
				i := k.Find(key, frames.Len(), func(i int) *byte { return &(*frames.At(i))[0] })
				at := slices.IndexFunc(want, func(m message) bool { return m.key == key })
				if i != at {
					t.Fatalf("seed %d: %v is at %d, want %d", seed, key, i, at)
				}
				if i >= 0 {
					k.Cut(&frames.Remove(i)[0])
					want = slices.Delete(want, at, at+1)
				}
				m := message{[]byte{byte(n)}, key}
				frames.Push(m.frame)
				k.Add(key, &m.frame[0])
				want = append(want, m)
			case 2:
				m := message{frame: []byte{byte(n)}, key: Key{Log: 9}}
				frames.Push(m.frame)
				want = append(want, m)
			default:
				if frames.Len() > 0 {
					frame := frames.Pop()
					k.Left(&frame[0])
					want = want[1:]
				}
			}
			if len(want) == 0 && k.waiting.Len() > 0 {
				t.Fatalf("seed %d: an empty queue has %d keys", seed, k.waiting.Len())
			}
		}
	}
}

// Whoever has no keys finds none, and an idle queue holds no memory for many.
func TestKeysIdle(t *testing.T) {
	var none *Keys
	if none.Find(Key{}, 0, nil) >= 0 {
		t.Error("found without keys")
	}
	none.Left(nil)
	var k Keys
	ends := make([]byte, 20)
	for round := range 2 {
		for i := range ends[:20-19*round] {
			k.Add(Key{Log: uint8(i)}, &ends[i])
		}
		for i := range ends[:20-19*round] {
			k.Left(&ends[i])
		}
	}
	if len(k.waiting.Buf) != 1 || k.first[0].end != nil {
		t.Errorf("it holds %d places, and %p", len(k.waiting.Buf), k.first[0].end)
	}
}
