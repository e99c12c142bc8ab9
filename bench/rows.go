package main

import (
	"fmt"
	"slices"
	"strings"
)

// A figure is one thing that is measured.
type figure struct {
	key, name, unit string
	more            bool // is better
}

var figureList = []figure{
	{"idle.rss", "resident memory a connection, idle", "KB", false},
	{"idle.memory", "heap and stack a connection, idle", "KB", false},
	{"idle.goroutines", "goroutines a connection, idle", "", false},
	{"burst.cpu", "CPU a delivery, broadcasts in bursts", "µs", false},
	{"single.cpu", "CPU a delivery, broadcasts one at a time", "µs", false},
	{"user128.cpu", "CPU a delivery, sends to users, 128 B", "µs", false},
	{"user2k.cpu", "CPU a delivery, sends to users, 2 KB", "µs", false},
	{"user128.rate", "deliveries a second, sends to users, 128 B", "/s", true},
	{"user2k.rate", "deliveries a second, sends to users, 2 KB", "/s", true},
	{"user128.lost", "lost of a burst of 200,000 to users", "", false},
	{"user128.redis", "CPU of Redis a message to a user", "µs", false},
	{"user128.allocs", "allocations a delivery, receiving node", "", false},
	{"user128.allallocs", "allocations a delivery, both nodes", "", false},
	{"nodes.2", "CPU a delivery at 2 nodes", "µs", false},
	{"nodes.16", "CPU a delivery at 16 nodes", "µs", false},
	{"nodes.factor", "CPU a delivery, 16 nodes over 2", "", false},
	{"latency.p50", "latency at 1,000 a second, p50", "ms", false},
	{"latency.p99", "latency at 1,000 a second, p99", "ms", false},
	{"latency.p99.9", "latency at 1,000 a second, p99.9", "ms", false},
	{"latency10k.p50", "latency at 10,000 a second, p50", "ms", false},
	{"latency10k.p99", "latency at 10,000 a second, p99", "ms", false},
	{"latency10k.p99.9", "latency at 10,000 a second, p99.9", "ms", false},
	{"storm.cpu", "CPU a connection, 5,000 in a storm", "µs", false},
	{"storm.time", "time for 5,000 connections in a storm", "s", false},
	{"tls.cpu", "CPU a delivery over TLS, sends to users", "µs", false},
}

// A row compares one figure with one peer.
type row struct {
	Row      string  `json:"row"`
	Unit     string  `json:"unit"`
	Herald   float64 `json:"herald"`
	Peer     float64 `json:"peer"`
	PeerName string  `json:"peer_name"`
	Ratio    float64 `json:"ratio"` // herald over peer; 0 if the peer is 0
}

// medians returns the median of each figure over the rounds, by contestant.
func medians(seen map[string][]figures) map[string]figures {
	result := make(map[string]figures)
	for kind, rounds := range seen {
		result[kind] = make(figures)
		all := make(map[string][]float64)
		for _, f := range rounds {
			for key, v := range f {
				all[key] = append(all[key], v)
			}
		}
		for key, values := range all {
			slices.Sort(values)
			result[kind][key] = (values[(len(values)-1)/2] + values[len(values)/2]) / 2
		}
	}
	return result
}

// compare makes a row of each figure and peer. If herald was not measured
// its column is 0.
func compare(median map[string]figures, withHerald bool) []row {
	var rows []row
	for _, f := range figureList {
		ours := median["herald"][f.key]
		for _, kind := range contestants[1:] {
			theirs, ok := median[kind][f.key]
			if !ok {
				continue
			}
			r := row{Row: f.name, Unit: f.unit, Herald: ours, Peer: theirs, PeerName: kind}
			if theirs != 0 {
				r.Ratio = ours / theirs
			}
			rows = append(rows, r)
		}
		if len(median) == 1 && withHerald {
			rows = append(rows, row{Row: f.name, Unit: f.unit, Herald: ours})
		}
	}
	return rows
}

// table returns rows in Markdown: a line a figure, a column a contestant, with
// herald's ratio to it in brackets.
func table(rows []row) string {
	var b strings.Builder
	fmt.Fprintf(&b, "| figure | %s |\n|---%s|\n", strings.Join(contestants, " | "), strings.Repeat("|---:", len(contestants)))
	for i := 0; i < len(rows); {
		name := rows[i].Row
		cells := map[string]string{}
		fmt.Fprintf(&b, "| %s | %s", title(rows[i]), number(rows[i].Herald))
		for ; i < len(rows) && rows[i].Row == name; i++ {
			r := rows[i]
			cell := number(r.Peer)
			if r.Peer != 0 {
				cell += fmt.Sprintf(" (%s)", number(r.Ratio))
			}
			cells[r.PeerName] = cell
		}
		for _, kind := range contestants[1:] {
			fmt.Fprintf(&b, " | %s", cells[kind])
		}
		b.WriteString(" |\n")
	}
	return b.String()
}

func title(r row) string {
	if r.Unit == "" {
		return r.Row
	}
	return r.Row + ", " + r.Unit
}

// number prints three digits.
func number(v float64) string {
	switch {
	case v == 0:
		return "0"
	case v >= 99.5 || v == float64(int64(v)):
		return fmt.Sprintf("%.0f", v)
	case v >= 9.95:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}
