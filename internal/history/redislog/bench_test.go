package redislog

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald/internal/history"
	"github.com/heraldgo/herald/internal/history/store"
	"github.com/heraldgo/herald/internal/test/redistest"
)

// A bench has a Log on a real server, and measures the server's CPU and memory.
type bench struct {
	*testing.B
	rdb   *redis.Client
	log   *Log
	known history.Point
	guess uint64
	next  int // the number of the next topic
}

const benchTopics = 10_000

var benchBody = []byte(strings.Repeat("x", 128))

func newBench(b *testing.B) *bench {
	rdb := redistest.Start(b).Client()
	limits := store.Limits{Segment: 16_384, Age: 300_000, Bytes: 64 << 20}
	return &bench{B: b, rdb: rdb, log: New(Config{Client: rdb, Limits: limits, Keys: "k:", Topics: "c:", Fences: "f"})}
}

// drafts returns a batch of n messages, each to the next topic.
func (b *bench) drafts(n int) (batch []store.Draft) {
	for range n {
		b.next = (b.next + 1) % benchTopics
		batch = append(batch, store.Draft{Topics: []string{fmt.Sprint("group:", b.next)}, Body: benchBody})
	}
	return batch
}

func (b *bench) append(batch []store.Draft) {
	for range 4 {
		reply, err := b.log.Append(b.Context(), b.known, b.guess, batch)
		if err != nil {
			b.Fatal(err)
		}
		if b.known = reply.End; reply.Outcome == store.Taken {
			return
		}
		if reply.Outcome == store.WrongSegment {
			b.guess = reply.Segment
		}
	}
	b.Fatal("it was not taken")
}

// info returns a number from INFO.
func (b *bench) info(section, name string) float64 {
	text, err := b.rdb.Info(b.Context(), section).Result()
	if err != nil {
		b.Fatal(err)
	}
	_, text, _ = strings.Cut(text, name+":")
	text, _, _ = strings.Cut(text, "\r")
	n, err := strconv.ParseFloat(text, 64)
	if err != nil {
		b.Fatal(err)
	}
	return n
}

func (b *bench) cpu() float64 {
	return b.info("cpu", "used_cpu_user") + b.info("cpu", "used_cpu_sys")
}

// BenchmarkAppend and BenchmarkPublish measure how much of Redis' CPU time a
// message of 128 bytes takes, in batches, with the log and without.
func BenchmarkAppend(b *testing.B) {
	benchmarkBatches(b, func(b *bench, batch []store.Draft) { b.append(batch) })
}

func BenchmarkPublish(b *testing.B) {
	benchmarkBatches(b, func(b *bench, batch []store.Draft) {
		if err := b.log.Publish(b.Context(), batch); err != nil {
			b.Fatal(err)
		}
	})
}

func benchmarkBatches(b *testing.B, send func(b *bench, batch []store.Draft)) {
	for _, size := range []int{1, 8, 64} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			r := newBench(b)
			for range benchTopics/64 + 1 {
				send(r, r.drafts(64))
			}
			before, n := r.cpu(), 0
			for b.Loop() {
				send(r, r.drafts(size))
				n += size
			}
			b.ReportMetric((r.cpu()-before)*1e6/float64(n), "redis-µs/message")
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(n), "µs/message")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkQuietTopics measures how much of Redis' memory a topic with one message
// of 128 bytes takes, and how much CPU time a survey of all of them.
func BenchmarkQuietTopics(b *testing.B) {
	r := newBench(b)
	r.append(r.drafts(1)) // for the keys that exist only once
	before := r.info("memory", "used_memory")
	for range benchTopics / 8 {
		r.append(r.drafts(8))
	}
	bytes := r.info("memory", "used_memory") - before
	var topics []string
	for i := range benchTopics {
		topics = append(topics, fmt.Sprint("group:", i))
	}
	from := history.Point{Epoch: r.known.Epoch, Offset: r.known.Offset - 20}
	begin, n := r.cpu(), 0
	for b.Loop() {
		s, err := r.log.Survey(b.Context(), r.known, from, topics, 512)
		if err != nil || !s.Whole || len(s.Offsets) != 20 {
			b.Fatalf("%+v, %v", s, err)
		}
		n++
	}
	b.ReportMetric(bytes/benchTopics, "B/topic")
	b.ReportMetric((r.cpu()-begin)*1e6/float64(n), "redis-µs/survey")
}

// BenchmarkSurvey measures how much of Redis' CPU time it takes to find what one
// topic has missed: 20 messages of 128 bytes among those of all other topics. The
// first script either walks the chains at once or, as on a Cluster, only looks. With
// copies each topic is asked for once, so what the copies cost is part of it.
func BenchmarkSurvey(b *testing.B) {
	for _, c := range []struct {
		name    string
		cluster bool
		copies  *Budget
	}{{"one script", false, nil}, {"two", true, nil}, {"copies", false, NewBudget(64 << 20)}} {
		b.Run(c.name, func(b *testing.B) {
			r := newBench(b)
			r.log.config.Cluster, r.log.copies.budget = c.cluster, c.copies
			for range 20*benchTopics/64 + 1 {
				r.append(r.drafts(64))
			}
			before, n := r.cpu(), 0
			for b.Loop() {
				if n++; n%benchTopics == 0 {
					r.log.copies.enter(0)
				}
				topic := fmt.Sprint("group:", n%benchTopics)
				s, err := r.log.Survey(b.Context(), r.known, history.Point{Epoch: r.known.Epoch}, []string{topic}, 512)
				if err != nil || len(s.Entries) < 20 {
					b.Fatal(len(s.Entries), err)
				}
			}
			b.ReportMetric((r.cpu()-before)*1e6/float64(n), "redis-µs/survey")
		})
	}
}

// BenchmarkScan measures how much of Redis' CPU time it takes to copy an entry of 128 bytes.
func BenchmarkScan(b *testing.B) {
	r := newBench(b)
	r.log.copies.budget = NewBudget(64 << 20)
	for range 16_384/64 - 1 {
		r.append(r.drafts(64))
	}
	before, n := r.cpu(), 0
	for b.Loop() {
		r.log.copies.enter(0)
		r.log.copies.looked(r.known.Epoch, []history.Offset{1})
		s := r.log.copies.segments[0]
		if err := r.log.scan(b.Context(), r.known.Epoch, s, 0); err != nil || len(s.entries) == 0 {
			b.Fatal(len(s.entries), err)
		}
		n += len(s.entries)
	}
	b.ReportMetric((r.cpu()-before)*1e6/float64(n), "redis-µs/entry")
}
