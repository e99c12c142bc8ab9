// Package heraldprom gives a Hub's Stats to Prometheus.
//
//	registry := prometheus.NewRegistry()
//	registry.MustRegister(heraldprom.NewCollector(hub))
//	http.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
//
// The module has a dashboard for Grafana (dashboard.json) and alerts (alerts.yml).
// docs/watching.md says what to look at, and what to do.
package heraldprom

import (
	"errors"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/heraldgo/herald"
)

// A collector implements prometheus.Collector.
type collector struct {
	stats  func() herald.Stats
	health func() error
	node   string

	mu     sync.Mutex
	failed uint64 // handshakes whose outcome is "error", as last told
}

// NewCollector returns a collector of a Hub's metrics. Their names begin with herald_.
// They have no label that tells Hubs apart: if a process has several, register each
// with prometheus.WrapRegistererWith.
//
// A scrape calls Hub.Stats and Hub.Health. It does no I/O, and looks at
// each connection. A Hub that is shut down can still be scraped. Any goroutine may use
// the collector.
func NewCollector(hub *herald.Hub) prometheus.Collector {
	return &collector{stats: hub.Stats, health: hub.Health, node: hub.NodeID()}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	ch <- nodeInfo
	ch <- unhealthy
	ch <- handshakes
	for _, f := range families {
		ch <- f.desc
	}
	for _, h := range histograms {
		ch <- h.desc
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	s := c.stats()
	ch <- prometheus.MustNewConstMetric(nodeInfo, prometheus.GaugeValue, 1, c.node)
	c.collectHealth(ch)
	c.collectHandshakes(ch, &s)
	for _, f := range families {
		for _, v := range f.values(&s) {
			ch <- prometheus.MustNewConstMetric(f.desc, f.kind, v.value, v.labels...)
		}
	}
	for _, h := range histograms {
		for _, v := range h.values(&s) {
			ch <- &histogramMetric{h.desc, v.histogram, v.labels}
		}
	}
}

func (c *collector) collectHealth(ch chan<- prometheus.Metric) {
	err := c.health()
	for reason, sentinel := range map[string]error{"bus": herald.ErrBusDown, "registry": herald.ErrRegistryDown, "draining": herald.ErrDraining} {
		is := 0.0
		if errors.Is(err, sentinel) {
			is = 1
		}
		ch <- prometheus.MustNewConstMetric(unhealthy, prometheus.GaugeValue, is, reason)
	}
}

// collectHandshakes counts handshakes by outcome. Outcome "error" has those that were
// refused for a cause that Stats does not name. It must not go down between scrapes,
// although Stats counts a cause a moment before the refusal.
func (c *collector) collectHandshakes(ch chan<- prometheus.Metric, s *herald.Stats) {
	named := uint64(0)
	for _, o := range outcomes {
		n := o.count(s)
		ch <- prometheus.MustNewConstMetric(handshakes, prometheus.CounterValue, float64(n), o.name)
		if o.name != "accepted" {
			named += n
		}
	}
	c.mu.Lock()
	if s.Rejected > named {
		c.failed = max(c.failed, s.Rejected-named)
	}
	failed := c.failed
	c.mu.Unlock()
	ch <- prometheus.MustNewConstMetric(handshakes, prometheus.CounterValue, float64(failed), "error")
}
