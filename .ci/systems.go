// Systems checks the types of the root, of heraldtest and of all that they import for
// systems that the tests do not run on: what is called is there, and numbers fit. It
// reads sources only. To compile all that would take minutes where nothing is cached.
//
// usage: systems GOOS/GOARCH...
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("systems: ")
	for _, system := range os.Args[1:] {
		if err := check(system); err != nil {
			log.Fatalf("%s: %v", system, err)
		}
	}
}

// A listed package is what go list says of it.
type listed struct {
	ImportPath, Dir string
	GoFiles         []string
	ImportMap       map[string]string
}

// check checks them for a system.
func check(system string) error {
	goos, arch, ok := strings.Cut(system, "/")
	if !ok {
		return errors.New("a system is GOOS/GOARCH")
	}
	list := exec.Command("go", "list", "-deps", "-json=ImportPath,Dir,GoFiles,ImportMap", ".", "./heraldtest")
	list.Env = append(os.Environ(), "GOOS="+goos, "GOARCH="+arch, "CGO_ENABLED=0")
	list.Stderr = os.Stderr
	out, err := list.Output()
	if err != nil {
		return fmt.Errorf("go list: %w", err)
	}
	packages := map[string]*types.Package{"unsafe": types.Unsafe}
	decoder := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p listed
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("go list: %w", err)
		}
		if p.ImportPath == "unsafe" {
			continue
		}
		ours := strings.HasPrefix(p.ImportPath, "github.com/heraldgo/herald")
		config := types.Config{
			Sizes: types.SizesFor("gc", arch), IgnoreFuncBodies: !ours,
			Importer: importerFunc(func(path string) (*types.Package, error) {
				if mapped := p.ImportMap[path]; mapped != "" {
					path = mapped
				}
				return packages[path], nil
			}),
		}
		files := token.NewFileSet()
		var parsed []*ast.File
		for _, name := range p.GoFiles {
			f, err := parser.ParseFile(files, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			parsed = append(parsed, f)
		}
		if packages[p.ImportPath], err = config.Check(p.ImportPath, files, parsed, nil); err != nil {
			return err
		}
	}
}

// An importerFunc imports what has been checked.
type importerFunc func(path string) (*types.Package, error)

func (i importerFunc) Import(path string) (*types.Package, error) { return i(path) }
