package main

import (
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

func printScale(nodes, users int, small, large []cost) error {
	fmt.Printf("%d and %d connections over %d nodes, and one node that has none.\n\n", users/scaleFactor, users, nodes-1)
	out := tabwriter.NewWriter(os.Stdout, 0, 0, 1, ' ', 0)
	fmt.Fprintln(out, "| step\t| time\t| \t| power\t| CPU of hubs\t| \t| power\t| CPU of Redis\t| \t| power\t|")
	fmt.Fprintln(out, strings.Repeat("|---\t", 10)+"|")
	for i, s := range small {
		l := large[i]
		fmt.Fprintf(out, "| %s\t|%s|%s|%s|\n", s.step, grown(s.elapsed, l.elapsed), grown(s.hubs, l.hubs), grown(s.redis, l.redis))
	}
	fmt.Fprintln(out, "\n| held after it\t| hubs\t| \t| power\t| Redis\t| \t| power\t| goroutines of hubs\t| \t|")
	fmt.Fprintln(out, strings.Repeat("|---\t", 9)+"|")
	for i, s := range small {
		if l := large[i]; l.held != (held{}) {
			fmt.Fprintf(out, "| %s\t|%s|%s| %d\t| %d\t|\n", s.step, filled(s.held.hubs, l.held.hubs), filled(s.held.redis, l.held.redis),
				s.held.goroutines, l.held.goroutines)
		}
	}
	if err := out.Flush(); err != nil {
		return err
	}
	i := slices.IndexFunc(small, func(c cost) bool { return c.step == idleStep })
	more, s, l := float64(users-users/scaleFactor), small[i].held, large[i].held
	fmt.Printf("\nWhen idle, each connection more takes %.2f KB and %.4f goroutines of a hub, and %.2f KB of Redis.\n",
		kilobytes(l.hubs-s.hubs)/more, float64(l.goroutines-s.goroutines)/more, kilobytes(l.redis-s.redis)/more)
	return nil
}

// grown prints two durations and the power of the factor between them. What is too
// short to be measured has none.
func grown(small, large time.Duration) string {
	return fmt.Sprintf(" %s\t| %s\t| %s\t", millis(small), millis(large), power(int64(small), int64(large), int64(2*time.Millisecond)))
}

// filled does the same with bytes.
func filled(small, large int64) string {
	return fmt.Sprintf(" %s KB\t| %s KB\t| %s\t", number(kilobytes(small)), number(kilobytes(large)), power(small, large, 1<<20))
}

func power(small, large, least int64) string {
	if small < least || large <= 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", math.Log(float64(large)/float64(small))/math.Log(scaleFactor))
}

func millis(d time.Duration) string { return number(float64(d)/float64(time.Millisecond)) + " ms" }

func kilobytes(n int64) float64 { return float64(n) / 1024 }
