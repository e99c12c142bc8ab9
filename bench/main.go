// Bench measures herald against what its users would pick instead, on one
// machine and in one run. See README.md.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

func main() {
	if kind := os.Getenv(envKind); kind != "" {
		if err := serve(kind, os.Getenv(envRedis), os.Getenv(envTLS) != ""); err != nil {
			fmt.Fprintln(os.Stderr, kind+":", err)
			os.Exit(1)
		}
		return
	}
	asJSON := flag.Bool("json", false, "print one JSON object a row")
	short := flag.Bool("short", false, "one round, with fewer messages; leaves RESULTS.md as it is")
	rounds := flag.Int("rounds", 5, "measure each contestant so many times, and take medians")
	only := flag.String("only", "", "measure these contestants alone, separated by commas; leaves RESULTS.md as it is")
	profiles := flag.String("profile", "", "write CPU profiles of every node and step into this `directory`; the figures suffer")
	echoes := flag.Bool("echo", false, "compare the CPU of an echo with coder/websocket's, and nothing else")
	histories := flag.Bool("history", false, "measure what it costs to keep messages, beside centrifuge with history and recovery, and nothing else")
	longs := flag.Bool("latency", false, "measure latency at 1,000 messages a second for longer, and nothing else")
	compressions := flag.Bool("compress", false, "measure what permessage-deflate costs and saves, and nothing else")
	scales := flag.Bool("scale", false, "measure what grows with the connections, and nothing else")
	nodes := flag.Int("nodes", 4, "of -scale: one has no clients")
	users := flag.Int("users", 10_000, "of -scale: connections, after a tenth of them")
	flag.Parse()
	var err error
	switch {
	case *scales:
		err = scale(*nodes, *users)
	case *histories:
		err = history(*rounds, *short, *only, *profiles)
	case *longs:
		err = latencies(*rounds, *only)
	case *compressions:
		err = compress(*rounds, *only)
	case *echoes:
		err = echo(*rounds, *profiles)
	default:
		err = run(*asJSON, *short, *rounds, *only, *profiles)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// contestants in the order of the table; herald is first.
var contestants = []string{"herald", "centrifuge", "centrifuge-tuned", "gws", "tutorial", "socket.io", "floor"}

func run(asJSON, short bool, rounds int, only, profiles string) error {
	kinds, err := choose(only, contestants)
	if err != nil {
		return err
	}
	kinds = installed(kinds)
	seen, err := inTurns(kinds, rounds, short, func(kind string, size sizes, redis *redisServer) (figures, error) {
		f, err := measure(kind, size, redis, profiles)
		if err != nil && kind != "herald" { // twenty minutes are not lost for one that dies
			progress("  %s: %v: the rest of its round is left out", kind, err)
			err = nil
		}
		return f, err
	})
	if err != nil {
		return err
	}
	rows := compare(medians(seen), slices.Contains(kinds, "herald"))
	if asJSON {
		out := json.NewEncoder(os.Stdout)
		for _, r := range rows {
			if err := out.Encode(r); err != nil {
				return err
			}
		}
	} else {
		fmt.Print(table(rows))
	}
	if short || only != "" || profiles != "" {
		return nil
	}
	return write(rows, rounds)
}

// inTurns measures each kind once a round, in another order each time, on one Redis. If
// it is to be short, there is one round.
func inTurns(kinds []string, rounds int, short bool, measure func(string, sizes, *redisServer) (figures, error)) (map[string][]figures, error) {
	size := fullSizes
	if short {
		size, rounds = shortSizes, 1
	}
	if rounds < 1 {
		return nil, fmt.Errorf("-rounds: %d: must be at least 1", rounds)
	}
	redis, err := startRedis()
	if err != nil {
		return nil, err
	}
	defer redis.stop()
	start := time.Now()
	seen := make(map[string][]figures)
	for n := range rounds {
		for i := range kinds {
			kind := kinds[(i+n)%len(kinds)]
			progress("round %d of %d: %s (%v)", n+1, rounds, kind, time.Since(start).Round(time.Second))
			f, err := measure(kind, size, redis)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", kind, err)
			}
			seen[kind] = append(seen[kind], f)
		}
	}
	return seen, nil
}

// choose returns those of all that only names, or all.
func choose(only string, all []string) ([]string, error) {
	if only == "" {
		return slices.Clone(all), nil
	}
	kinds := strings.Split(only, ",")
	for _, k := range kinds {
		if !slices.Contains(all, k) {
			return nil, fmt.Errorf("-only: %q: must be one of %s", k, strings.Join(all, ", "))
		}
	}
	return kinds, nil
}

// installed returns the kinds that can run here, and says which one is left out.
func installed(kinds []string) []string {
	if !slices.Contains(kinds, "socket.io") {
		return kinds
	}
	if err := prepareSocketIO(); err != nil {
		progress("socket.io is left out: %v", err)
		return slices.DeleteFunc(kinds, func(k string) bool { return k == "socket.io" })
	}
	return kinds
}

// prepareSocketIO installs Socket.IO, from npm, if Node is present.
func prepareSocketIO() error {
	if ready, err := socketIOReady(); ready || err != nil {
		return err
	}
	progress("npm ci, in socketio")
	cmd := exec.Command("npm", "ci", "--no-audit", "--no-fund", "--loglevel=error")
	cmd.Dir, cmd.Stdout, cmd.Stderr = "socketio", os.Stderr, os.Stderr
	return cmd.Run()
}

// socketIOReady reports whether npm has installed Socket.IO. It returns an error if there
// is no Node to run it.
func socketIOReady() (bool, error) {
	if _, err := exec.LookPath("node"); err != nil {
		return false, errors.New("node is not installed")
	}
	_, err := os.Stat("socketio/node_modules")
	return err == nil, nil
}

// measure measures one contestant once.
func measure(kind string, size sizes, redis *redisServer, profiles string) (figures, error) {
	seen := make(figures)
	steps := []func(*round) error{(*round).main}
	if kind != "socket.io" && kind != "floor" { // neither spreads over processes cheaply, or at all
		steps = append(steps, (*round).spread, (*round).tls)
	}
	for _, step := range steps {
		if err := step(&round{kind: kind, sizes: size, redis: redis, seen: seen, profiles: profiles}); err != nil {
			return seen, err
		}
	}
	return seen, nil
}

func progress(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
