// Package house_test checks the rules of this repository that a program can check:
// which imports are allowed where, how long a file may be, and that the documents
// name what exists.
package house_test

import (
	"bytes"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/heraldgo/herald"

var house = os.DirFS("../../..")

// files returns the paths of all files of the repository with this ending.
func files(t *testing.T, ending string) []string {
	t.Helper()
	var found []string
	err := fs.WalkDir(house, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "node_modules" || len(d.Name()) > 1 && d.Name()[0] == '.'):
			return fs.SkipDir
		case !d.IsDir() && strings.HasSuffix(name, ending):
			found = append(found, name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// product returns the Go files that are not tests.
func product(t *testing.T) []string {
	t.Helper()
	var found []string
	for _, file := range files(t, ".go") {
		if !strings.HasSuffix(file, "_test.go") {
			found = append(found, file)
		}
	}
	return found
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	b, err := fs.ReadFile(house, file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// imports returns the paths that a Go file imports.
func imports(t *testing.T, file string) []string {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), file, read(t, file), parser.ImportsOnly)
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, i := range parsed.Imports {
		p, err := strconv.Unquote(i.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, p)
	}
	return paths
}

// under reports whether a file is in one of the places, and in which. A place is a
// file, a pattern, or a directory, whose name ends in a slash.
func under(places []string, file string) (place string, ok bool) {
	for _, place := range places {
		if strings.HasSuffix(place, "/") && strings.HasPrefix(file, place) {
			return place, true
		}
		if ok, _ := path.Match(place, file); ok {
			return place, true
		}
	}
	return "", false
}

// Every file is short enough to be read in one go.
func TestLengths(t *testing.T) {
	const most = 400
	exceptions := map[string]string{ // file: why
		"bench/measure.go": "one table of measurements",
	}
	for _, file := range product(t) {
		n := bytes.Count(read(t, file), []byte("\n"))
		_, excepted := exceptions[file]
		switch {
		case n > most && !excepted:
			t.Errorf("%s has %d lines, more than %d", file, n, most)
		case n <= most && excepted:
			t.Errorf("%s has %d lines and needs no exception", file, n)
		}
		delete(exceptions, file)
	}
	for file := range exceptions {
		t.Errorf("there is no %s", file)
	}
}

// The root is small enough to be taken in at a glance. The backends have packages
// of their own.
func TestRoot(t *testing.T) {
	const most, mostTests = 44, 19
	n, tests := 0, 0
	for _, file := range files(t, ".go") {
		switch {
		case path.Dir(file) != ".":
			continue
		case strings.HasSuffix(file, "_test.go"):
			tests++
		default:
			n++
		}
		if strings.Contains(file, "redis") && file != "bus_redis.go" && file != "registry_redis.go" {
			t.Errorf("%s belongs to an internal package", file)
		}
	}
	if n > most || tests > mostTests {
		t.Errorf("the root has %d files and %d of tests, more than %d and %d", n, tests, most, mostTests)
	}
}

// The shell can parse the scripts of .ci.
func TestScripts(t *testing.T) {
	scripts, err := fs.ReadDir(house, ".ci")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range scripts {
		b := read(t, path.Join(".ci", s.Name()))
		if !bytes.HasPrefix(b, []byte("#!/bin/")) {
			continue
		}
		sh := exec.Command("sh", "-n")
		sh.Stdin = bytes.NewReader(b)
		if out, err := sh.CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", s.Name(), err, out)
		}
	}
}
