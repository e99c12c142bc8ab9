package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"
)

// write writes RESULTS.md and the picture beside it.
func write(rows []row, rounds int) error {
	var b strings.Builder
	fmt.Fprintf(&b, "# Results\n\nMade by `go run .` in this directory on %s: %s.\n"+
		"Medians of %d rounds, the order of the contestants rotated. In brackets herald's figure over the contestant's.\n"+
		"README.md says what each figure is.\n\n![figures](results.svg)\n\n%s",
		time.Now().Format("2006-01-02"), machine(), rounds, table(rows))
	if err := os.WriteFile("RESULTS.md", []byte(b.String()), 0o644); err != nil {
		return err
	}
	return os.WriteFile("results.svg", []byte(picture(rows)), 0o644)
}

// machine describes where the bench runs.
func machine() string {
	cpu := "unknown processor"
	info, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(info)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			cpu = strings.TrimSpace(value)
			break
		}
	}
	parts := []string{fmt.Sprintf("%d × %s", runtime.NumCPU(), cpu), runtime.GOOS + "/" + runtime.GOARCH, runtime.Version()}
	for _, c := range [][]string{{"redis-server", "--version"}, {"node", "--version"}} {
		if out, err := exec.Command(c[0], c[1:]...).Output(); err == nil {
			parts = append(parts, version(c[0], string(out)))
		}
	}
	return strings.Join(parts, ", ")
}

func version(program, out string) string {
	if _, v, ok := strings.Cut(out, "v="); ok { // Redis server v=7.0.15 sha=…
		out, _, _ = strings.Cut(v, " ")
	}
	return program + " " + strings.TrimSpace(out)
}

// What the picture shows: figures of which less is better.
var pictured = []string{"idle.rss", "burst.cpu", "single.cpu", "user128.cpu", "nodes.16", "storm.cpu"}

var colours = map[string]string{
	"herald": "#0a7d55", "centrifuge": "#d1793b", "centrifuge-tuned": "#e0a778", "gws": "#a15c9b",
	"tutorial": "#5b7db1", "socket.io": "#8a8f98", "floor": "#c9cdd3",
}

// picture draws bars, an SVG.
func picture(rows []row) string {
	const width, label, bar, gap = 760, 130, 16, 5
	var b strings.Builder
	y := 24
	for _, key := range pictured {
		name, unit, values := valuesOf(rows, key)
		if len(values) == 0 {
			continue
		}
		top := 0.0
		for _, v := range values {
			top = max(top, v)
		}
		fmt.Fprintf(&b, "<text x=\"0\" y=\"%d\" font-weight=\"bold\">%s, %s</text>\n", y, name, unit)
		y += 10
		for _, kind := range contestants {
			v, ok := values[kind]
			if !ok {
				continue
			}
			w := v / top * (width - label - 70)
			fmt.Fprintf(&b, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%s</text>", label-8, y+bar-4, kind)
			fmt.Fprintf(&b, "<rect x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"%d\" fill=\"%s\"/>", label, y, max(w, 1), bar, colours[kind])
			fmt.Fprintf(&b, "<text x=\"%.1f\" y=\"%d\">%s</text>\n", label+max(w, 1)+6, y+bar-4, number(v))
			y += bar + gap
		}
		y += 26
	}
	return fmt.Sprintf("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"-10 0 %d %d\" font-family=\"sans-serif\" font-size=\"13\" fill=\"#222\">\n"+
		"<rect x=\"-10\" width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n%s</svg>\n", width+20, y, b.String())
}

// valuesOf returns one figure by contestant.
func valuesOf(rows []row, key string) (name, unit string, values map[string]float64) {
	for _, f := range figureList {
		if f.key == key {
			name, unit = f.name, f.unit
		}
	}
	values = make(map[string]float64)
	for _, r := range rows {
		if r.Row == name {
			values["herald"] = r.Herald
			values[r.PeerName] = r.Peer
		}
	}
	return name, unit, values
}
