package heraldprom

import (
	"encoding/json"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/histogram"
)

// fill sets each number of v to n, and what is in maps and slices as well.
func fill(v reflect.Value, n int) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), n)
		}
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(n))
	case reflect.Uint64:
		v.SetUint(uint64(n))
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), histogram.Size, histogram.Size))
		for i := range v.Len() {
			fill(v.Index(i), n)
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		key := reflect.New(v.Type().Key()).Elem()
		if key.Kind() == reflect.String {
			key.SetString("OnMessage")
		} else {
			key.SetUint(uint64(herald.StatusTooSlow))
		}
		value := reflect.New(v.Type().Elem()).Elem()
		fill(value, n)
		v.SetMapIndex(key, value)
	}
}

func gather(t *testing.T, c prometheus.Collector) []*dto.MetricFamily {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(c)
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	return families
}

func of(s herald.Stats) *collector {
	return &collector{stats: func() herald.Stats { return s }, health: func() error { return nil }, node: "n-1"}
}

func full() *collector {
	var s herald.Stats
	fill(reflect.ValueOf(&s).Elem(), 1000)
	return of(s)
}

// A target is a query of the dashboard.
type target struct{ panel, expr string }

// queries returns the dashboard's queries as Grafana would ask them.
func queries(t *testing.T, interval string) (all []target) {
	t.Helper()
	b, err := os.ReadFile("dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(b, &dashboard); err != nil {
		t.Fatal(err)
	}
	for _, p := range dashboard.Panels {
		for _, q := range p.Targets {
			all = append(all, target{p.Title, strings.NewReplacer("$__rate_interval", interval, "$instance", ".*").Replace(q.Expr)})
		}
	}
	return all
}

const patience = 60 * time.Second

func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
