// Command faults breaks what is between nodes and their clients in many ways, and
// prints as a table what that does: what is missing, and whether that was told.
//
// It needs redis-server, and for the other buses redis-sentinel, nats-server,
// rabbitmq-server and mosquitto; Kafka is franz-go's kfake. A third of the clients is
// client/js, which needs Node.
package main

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/heraldgo/herald/internal/test/faultrig"
	_ "github.com/heraldgo/herald/internal/test/quiet"
)

// names are those of all buses, in the order of the tables.
var names = []string{faultrig.Redis, faultrig.Sentinel, faultrig.Cluster, "NATS", "RabbitMQ", "MQTT", "Kafka"}

// keeps are the buses on which there can be a Retention.
var keeps = []string{faultrig.Redis, faultrig.Sentinel, faultrig.Cluster}

func main() {
	faultrig.Main(buses)
	on := flag.String("bus", strings.Join(names, ","), "the `buses`")
	which := flag.String("fault", "", "only faults whose names this regular `expression` matches")
	retention := flag.String("retention", "both", "with, without, or both")
	lasts := flag.Duration("for", 0, "for how long each fault is repeated; 0: it comes once")
	users := flag.Int("users", 30, "how many users there are, each with three devices")
	parallel := flag.Int("parallel", 2, "how many rows are made at a time")
	old := flag.String("old", "", "the `commit` whose build is upgraded from; none: nodes that keep nothing stand for it")
	flag.Parse()
	only, err := regexp.Compile(*which)
	if err != nil {
		fmt.Fprintln(os.Stderr, "faults: -fault:", err)
		os.Exit(2)
	}
	dir, err := os.MkdirTemp("", "faults")
	program := ""
	if err == nil && *old != "" {
		program, err = buildOld(dir, *old)
	}
	if err != nil {
		os.RemoveAll(dir)
		fmt.Fprintln(os.Stderr, "faults: -old:", err)
		os.Exit(2)
	}
	var rows []*row
	for _, bus := range strings.Split(*on, ",") {
		if !slices.Contains(names, bus) {
			fmt.Fprintf(os.Stderr, "faults: -bus %q: must be of %s\n", bus, strings.Join(names, ", "))
			os.Exit(2)
		}
		for _, with := range []bool{true, false} {
			if with && (*retention == "without" || !slices.Contains(keeps, bus)) || !with && *retention == "with" {
				continue
			}
			for _, f := range faultrig.Faults(bus) {
				if only.MatchString(f.Name) && (with || !f.Upgrade) {
					rows = append(rows, &row{bus: bus, retention: with, fault: f, lasts: *lasts, users: *users, old: program})
				}
			}
		}
	}
	runAll(rows, *parallel)
	os.RemoveAll(dir)
	print(rows)
	if slices.ContainsFunc(rows, (*row).broken) {
		os.Exit(1)
	}
}

// runAll runs the rows, some at a time, and at the end each of those that are heavy.
func runAll(rows []*row, parallel int) {
	var light, heavy []*row
	for _, r := range rows {
		if r.fault.Heavy {
			heavy = append(heavy, r)
		} else {
			light = append(light, r)
		}
	}
	runSome(light, parallel)
	runSome(heavy, 1)
}

func runSome(rows []*row, parallel int) {
	places := make(chan struct{}, parallel)
	var running sync.WaitGroup
	for _, r := range rows {
		places <- struct{}{}
		running.Go(func() {
			defer func() { <-places }()
			began := time.Now()
			r.run()
			fmt.Fprintf(os.Stderr, "%s in %v\n", r, time.Since(began).Round(time.Second))
		})
	}
	running.Wait()
}

// A row is a fault on a bus, and what came of it.
type row struct {
	bus       string
	retention bool
	fault     faultrig.Fault
	lasts     time.Duration
	users     int
	old       string

	verdict *faultrig.Verdict // nil if there is none
	t       *tb
}

func (r *row) run() {
	r.t = run(r.bus+": "+r.fault.Name, func(t testing.TB) {
		r.verdict = faultrig.Run(t, r.fault, faultrig.Options{
			Bus: r.bus, Retention: r.retention, Nodes: 3, Users: r.users, Pace: 30 * time.Millisecond, Lasts: r.lasts,
			HeraldJS: "../../client/js/herald.js", StartBroker: brokers[r.bus], Old: r.old,
		})
	})
}

// broken reports whether a promise is.
func (r *row) broken() bool {
	if r.verdict == nil {
		return !r.t.skipped
	}
	v, f := r.verdict, r.fault
	return r.t.Failed() || len(v.Broken) > 0 || r.retention && (f.Survives && v.Told > 0 || f.Quiet && v.False > 0)
}

// String tells what came of it, and in detail if that is a fault of herald's.
func (r *row) String() string {
	text := fmt.Sprintf("%s, retention %v: %s", r.bus, r.retention, strings.Join(r.cells(), " | "))
	if v := r.verdict; v != nil && r.retention {
		text += fmt.Sprintf("; of %d resumes %d complete", v.Resumes, v.Complete)
	}
	if !r.broken() {
		return text
	}
	var more []string
	if r.verdict != nil {
		more = r.verdict.Broken[:min(10, len(r.verdict.Broken))]
	}
	return text + "\n" + strings.Join(append(more, r.t.told()...), "\n")
}

// columns are those of a table.
var columns = []string{
	"fault", "sent", "received", "missing, told", "missing, not told", "told, nothing missing",
	"doubled", "out of order", "time to recover",
}

func (r *row) cells() []string {
	v := r.verdict
	if v == nil && r.t.skipped {
		return []string{r.fault.Name, "not run"}
	} else if v == nil {
		return []string{r.fault.Name, "failed"}
	}
	cells := []string{r.fault.Name}
	for _, n := range []int{v.Sent, v.Received, v.Told, v.Untold, v.False, v.Doubled, v.Disordered} {
		cells = append(cells, fmt.Sprint(n))
	}
	recovery := "–"
	if v.Recovery > 0 {
		recovery = fmt.Sprintf("%.1f s", v.Recovery.Seconds())
	}
	return append(cells, recovery)
}

// print prints a table for each bus, with and without a Retention.
func print(rows []*row) {
	heading := ""
	for _, r := range rows {
		h := fmt.Sprintf("\n### %s, with a Retention\n\n", r.bus)
		if !r.retention {
			h = fmt.Sprintf("\n### %s, without a Retention\n\n", r.bus)
		}
		if h != heading {
			heading = h
			fmt.Printf("%s| %s |\n|---|%s\n", h, strings.Join(columns, " | "), strings.Repeat("---:|", len(columns)-1))
		}
		fmt.Printf("| %s |\n", strings.Join(r.cells(), " | "))
	}
}
