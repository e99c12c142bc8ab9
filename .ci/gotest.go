// Gotest runs go test and tells what matters: a line for each package, all
// that failed tests said, and which tests were skipped, and why.
//
// usage: gotest totals arguments of go test...
//
// It appends a line "run failed skipped" to the file totals.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"os/exec"
	"strings"
)

// An event is a line of go test -json; see go doc test2json.
type event struct {
	Action  string
	Package string
	Test    string
	Output  string
	Elapsed float64 // seconds
}

// A report collects the events of one go test.
type report struct {
	run, failed, skipped int
	packages             map[string]*pkg
}

// A pkg is a package whose tests are under way.
type pkg struct {
	run, failed int
	said        map[string]*strings.Builder // by test; "" is the package itself
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("gotest: ")
	if len(os.Args) < 3 {
		log.Fatal("usage: gotest totals arguments of go test...")
	}
	cmd := exec.Command("go", append([]string{"test", "-json"}, os.Args[2:]...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		log.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		log.Fatal(err)
	}
	r := report{packages: map[string]*pkg{}}
	lines := bufio.NewReader(out)
	for {
		line, err := lines.ReadBytes('\n')
		var e event
		switch {
		case err != nil:
		case json.Unmarshal(line, &e) != nil:
			os.Stdout.Write(line)
		default:
			r.add(e)
		}
		if err != nil {
			break
		}
	}
	failed := cmd.Wait()
	if err := r.total(os.Args[1]); err != nil {
		log.Fatal(err)
	}
	if failed != nil {
		os.Exit(1)
	}
}

func (r *report) add(e event) {
	p := r.packages[e.Package]
	if p == nil {
		p = &pkg{said: map[string]*strings.Builder{}}
		r.packages[e.Package] = p
	}
	switch e.Action {
	case "build-output":
		fmt.Print(e.Output)
	case "output":
		p.say(e)
	case "pass", "skip", "fail":
		if e.Test != "" {
			r.endTest(p, e)
		} else {
			r.endPackage(p, e)
		}
	}
}

// say keeps the output until it is known how the test ends.
func (p *pkg) say(e event) {
	if isFrame(e.Output) {
		return
	}
	b := p.said[e.Test]
	if b == nil {
		b = &strings.Builder{}
		p.said[e.Test] = b
	}
	b.WriteString(e.Output)
}

// isFrame reports whether a line of output is go test's own, and no news.
func isFrame(line string) bool {
	line = strings.TrimLeft(line, " ")
	for _, prefix := range []string{"=== ", "PASS\n", "FAIL\n", "FAIL\t", "ok  \t", "--- PASS", "--- SKIP"} {
		if strings.HasPrefix(line, prefix) {
			return true
		}
	}
	return false
}

func (r *report) endTest(p *pkg, e event) {
	said := ""
	if b := p.said[e.Test]; b != nil {
		said = b.String()
	}
	delete(p.said, e.Test)
	r.run++
	p.run++
	switch e.Action {
	case "skip":
		r.skipped++
		fmt.Printf("skip %s: %s\n", e.Test, strings.TrimSpace(said))
	case "fail":
		r.failed++
		p.failed++
		fmt.Print(said)
	}
}

func (r *report) endPackage(p *pkg, e event) {
	delete(r.packages, e.Package)
	switch {
	case e.Action == "fail":
		// What is left is the package's own output, and that of tests that
		// had not ended when the process did.
		for test, b := range p.said {
			if test != "" {
				fmt.Printf("unfinished %s:\n", test)
			}
			fmt.Print(b)
		}
		fmt.Printf("FAIL %s %.1fs\n", e.Package, e.Elapsed)
		if p.failed == 0 {
			r.failed++ // it did not build, or ended before its tests
		}
	case p.run > 0:
		fmt.Printf("ok   %s %d tests, %.1fs\n", e.Package, p.run, e.Elapsed)
	}
}

func (r *report) total(file string) error {
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o666)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(f, r.run, r.failed, r.skipped)
	if closed := f.Close(); err == nil {
		err = closed
	}
	return err
}
