package heraldprom

import (
	"fmt"
	"math"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/histogram"
)

// Each number of Stats moves a metric.
func TestAllOfStats(t *testing.T) {
	shown := map[string]string{ // field: what shows it
		"Dropped":           "its parts",
		"BusRoundTrip":      "BusRoundTrips",
		"RegistryRoundTrip": "RegistryCalls",
	}
	before := fmt.Sprint(gather(t, of(herald.Stats{})))
	for _, f := range reflect.VisibleFields(reflect.TypeFor[herald.Stats]()) {
		var s herald.Stats
		fill(reflect.ValueOf(&s).Elem().FieldByIndex(f.Index), 3)
		moved := fmt.Sprint(gather(t, of(s))) != before
		if _, elsewhere := shown[f.Name]; moved == elsewhere {
			t.Errorf("%s moves a metric: %v", f.Name, moved)
		}
	}
}

// What Stats has of refusals by cause may be ahead of their sum: the rest never falls.
func TestRestNeverFalls(t *testing.T) {
	var s herald.Stats
	c := of(s)
	c.stats = func() herald.Stats { return s }
	rest := func() float64 {
		for _, f := range gather(t, c) {
			for _, m := range f.Metric {
				if f.GetName() == "herald_handshakes_total" && m.Label[0].GetValue() == "error" {
					return m.Counter.GetValue()
				}
			}
		}
		return -1
	}
	for _, step := range []struct {
		rejected, denied uint64
		want             float64
	}{{0, 0, 0}, {3, 1, 2}, {3, 3, 2}, {5, 3, 2}, {7, 3, 4}, {0, 1, 4}} {
		s.Rejected, s.Denied = step.rejected, step.denied
		if got := rest(); got != step.want {
			t.Errorf("of %d refused, %d denied, the rest is %v, want %v", step.rejected, step.denied, got, step.want)
		}
	}
}

// Health shows as its reasons.
func TestHealth(t *testing.T) {
	c := of(herald.Stats{})
	c.health = func() error { return fmt.Errorf("%w, and %w", herald.ErrDraining, herald.ErrBusDown) }
	for _, f := range gather(t, c) {
		if f.GetName() != "herald_unhealthy" {
			continue
		}
		for _, m := range f.Metric {
			reason := m.Label[0].GetValue()
			if got, want := m.Gauge.GetValue() == 1, reason != "registry"; got != want {
				t.Errorf("unhealthy for %s is %v", reason, got)
			}
		}
		return
	}
	t.Error("no herald_unhealthy")
}

// Both forms of a histogram say what its buckets do.
func TestHistogram(t *testing.T) {
	var counts histogram.Counts
	took := []time.Duration{0, time.Microsecond, 100 * time.Microsecond, 125 * time.Millisecond, 130 * time.Millisecond, time.Second, time.Second, time.Hour}
	for _, d := range took {
		counts.Observe(d)
	}
	m := &histogramMetric{histogram: herald.Histogram{Count: uint64(len(took)), Sum: counts.Sum, Buckets: counts.Buckets[:]}}
	var out dto.Metric
	if err := m.Write(&out); err != nil {
		t.Fatal(err)
	}
	h := out.Histogram
	for _, b := range h.Bucket {
		want := uint64(0)
		for _, d := range took {
			if d.Seconds() <= b.GetUpperBound() {
				want++
			}
		}
		if b.GetCumulativeCount() != want {
			t.Errorf("%d took at most %v s, want %d", b.GetCumulativeCount(), b.GetUpperBound(), want)
		}
	}
	if n := len(h.Bucket); n != 19 || h.Bucket[n-1].GetUpperBound() != 32 {
		t.Errorf("%d classic buckets up to %v", n, h.Bucket[n-1].GetUpperBound())
	}
	// A native bucket with an index i ends at 2^(i/4) seconds.
	var native []string
	index, n, d := int32(0), int64(0), 0
	for _, span := range h.PositiveSpan {
		index += span.GetOffset()
		for range span.GetLength() {
			n += h.PositiveDelta[d]
			native = append(native, fmt.Sprintf("%d to %.4g s", n, math.Exp2(float64(index)/4)))
			index++
			d++
		}
	}
	want := []string{"1 to 0.0001026 s", "1 to 0.125 s", "1 to 0.1487 s", "2 to 1 s", "1 to 1218 s"}
	if h.GetZeroCount() != 2 || !slices.Equal(native, want) || d != len(h.PositiveDelta) {
		t.Errorf("%d at zero, then %q, want 2, %q", h.GetZeroCount(), native, want)
	}
}

var (
	name     = regexp.MustCompile(`\bherald_[a-z0-9_]+`)
	selector = regexp.MustCompile(`\b(herald_[a-z0-9_]+)\{([^}]*)\}`)
	matcher  = regexp.MustCompile(`([a-z]+)(=~|!=|=)"([^"]*)"`)
)

// family returns the name of the metric that a series is of.
func familyOf(name string, families map[string]*dto.MetricFamily) string {
	for _, suffix := range []string{"_bucket", "_sum", "_count"} {
		if f := families[strings.TrimSuffix(name, suffix)]; f.GetType() == dto.MetricType_HISTOGRAM {
			return f.GetName()
		}
	}
	return name
}

// The dashboard, the alerts and the page name metrics, and values of labels, that there
// are. Each metric is in the dashboard, and on the page.
func TestNames(t *testing.T) {
	families := make(map[string]*dto.MetricFamily)
	for _, f := range gather(t, full()) {
		families[f.GetName()] = f
	}
	has := func(family, label, value string) bool {
		return slices.ContainsFunc(families[family].GetMetric(), func(m *dto.Metric) bool {
			return slices.ContainsFunc(m.Label, func(l *dto.LabelPair) bool {
				return l.GetName() == label && l.GetValue() == value
			})
		})
	}
	for _, file := range []string{"dashboard.json", "alerts.yml", "../../docs/watching.md"} {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		text := strings.ReplaceAll(string(b), `\"`, `"`)
		missing := make(map[string]bool)
		for f := range families {
			missing[f] = file != "alerts.yml"
		}
		for _, n := range name.FindAllString(text, -1) {
			f := familyOf(n, families)
			if families[f] == nil {
				t.Errorf("%s names %s, which there is not", file, n)
			}
			missing[f] = false
		}
		for f, is := range missing {
			if is {
				t.Errorf("%s does not name %s", file, f)
			}
		}
		for _, s := range selector.FindAllStringSubmatch(text, -1) {
			for _, m := range matcher.FindAllStringSubmatch(s[2], -1) {
				if m[1] == "instance" {
					continue
				}
				for _, value := range strings.Split(m[3], "|") {
					if !has(familyOf(s[1], families), m[1], value) {
						t.Errorf("%s: %s has no %s %q", file, s[1], m[1], value)
					}
				}
			}
		}
	}
}
