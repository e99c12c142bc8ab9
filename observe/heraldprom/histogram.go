package heraldprom

import (
	"math"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/histogram"
)

// A histogramMetric is a histogram of Stats in both of Prometheus' forms. A server that
// knows native histograms takes the native form, and others take the classic one.
type histogramMetric struct {
	desc      *prometheus.Desc
	histogram herald.Histogram
	labels    []*dto.LabelPair
}

// Desc implements prometheus.Metric.
func (m *histogramMetric) Desc() *prometheus.Desc { return m.desc }

// Classic buckets end at each power of two from 0.1 ms to 32 s.
const (
	classicFrom = (-13 - histogram.Lowest) * histogram.PerOctave
	classicTo   = (5 - histogram.Lowest) * histogram.PerOctave
)

// Write implements prometheus.Metric.
func (m *histogramMetric) Write(out *dto.Metric) error {
	h := &dto.Histogram{
		SampleCount: ptr(m.histogram.Count),
		SampleSum:   ptr(m.histogram.Sum.Seconds()),

		// Schema 2 has four buckets an octave, as the buckets of Stats are.
		Schema:        ptr(int32(2)),
		ZeroThreshold: ptr(math.Exp2(histogram.Lowest)),
		ZeroCount:     ptr(uint64(0)),
	}
	total := uint64(0)
	for i, n := range m.histogram.Buckets {
		total += n
		if i >= classicFrom && i <= classicTo && (i-classicFrom)%histogram.PerOctave == 0 {
			bound := math.Exp2(float64(i)/histogram.PerOctave + histogram.Lowest)
			h.Bucket = append(h.Bucket, &dto.Bucket{UpperBound: &bound, CumulativeCount: ptr(total)})
		}
	}
	appendNative(h, m.histogram.Buckets)
	out.Label, out.Histogram = m.labels, h
	return nil
}

// appendNative adds the native buckets: spans of buckets that are not empty, and the
// difference of each to the one before.
func appendNative(h *dto.Histogram, buckets []uint64) {
	if len(buckets) == 0 {
		return
	}
	h.ZeroCount = ptr(buckets[0])
	before, next := int64(0), 0 // what the last bucket has, and the index that follows it
	for i, n := range buckets[1:] {
		if n == 0 {
			continue
		}
		index := i + 1 + histogram.Lowest*histogram.PerOctave
		spans := len(h.PositiveSpan)
		if spans == 0 || index != next {
			h.PositiveSpan = append(h.PositiveSpan, &dto.BucketSpan{Offset: ptr(int32(index - next)), Length: ptr(uint32(0))})
			spans++
		}
		*h.PositiveSpan[spans-1].Length++
		h.PositiveDelta = append(h.PositiveDelta, int64(n)-before)
		before, next = int64(n), index+1
	}
}

func ptr[T any](v T) *T { return &v }
