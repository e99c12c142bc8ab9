package house_test

import (
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// An arrow says that one file uses something that another declares.
type arrow struct{ from, to string }

// A room of the root uses only rooms below it in DESIGN.md's table. DESIGN.md names
// each arrow that runs back up, and none that does not exist.
func TestArrows(t *testing.T) {
	room, row := make(map[string]string), make(map[string]int) // of files: the first file of their row
	_, table, _ := strings.Cut(string(read(t, "DESIGN.md")), "\n## The rooms\n")
	table, _, _ = strings.Cut(table, "\n## ")
	for i, line := range strings.Split(table, "\n") {
		if cells := strings.Split(line, "|"); len(cells) > 2 {
			files := strings.Fields(cells[1])
			for _, file := range files {
				room[file], row[file] = files[0], i
			}
		}
	}
	back := make(map[arrow]string) // and one thing that it uses
	for a, what := range arrows(t) {
		if row[a.from] > row[a.to] {
			back[arrow{room[a.from], room[a.to]}] = what
		}
	}
	named := namedArrows(t)
	for a, what := range back {
		if !named[a] {
			t.Errorf("%s uses what is above it, %s of %s, and DESIGN.md does not say why", a.from, what, a.to)
		}
		delete(named, a)
	}
	for a := range maps.Keys(named) {
		t.Errorf("DESIGN.md names an arrow from %s to %s, and there is none", a.from, a.to)
	}
}

var arrowLine = regexp.MustCompile(`(?m)^- \*\*([^*]+) → ([^*]+)\.\*\*`)

// namedArrows returns the arrows that DESIGN.md names: from each file before a → to
// each file behind it.
func namedArrows(t *testing.T) map[arrow]bool {
	_, text, _ := strings.Cut(string(read(t, "DESIGN.md")), "\n### Arrows that run back\n")
	text, _, _ = strings.Cut(text, "\n## ")
	named := make(map[arrow]bool)
	for _, m := range arrowLine.FindAllStringSubmatch(text, -1) {
		for _, from := range strings.Fields(m[1]) {
			for _, to := range strings.Fields(m[2]) {
				named[arrow{from, to}] = true
			}
		}
	}
	if len(named) == 0 {
		t.Fatal("DESIGN.md names no arrows")
	}
	return named
}

// arrows returns the arrows between the product files of the root, and for each one
// thing that it uses. A method's use of its own type, that is, of its name and
// fields, makes no arrow, because methods are in the room of what they do.
func arrows(t *testing.T) map[arrow]string {
	t.Helper()
	list := exec.Command("go", "list", "-export", "-deps", "-f", "{{.ImportPath}} {{.Export}}", ".")
	list.Dir = "../../.."
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	exports := make(map[string]string)
	for line := range strings.Lines(string(out)) {
		name, file, _ := strings.Cut(strings.TrimSpace(line), " ")
		exports[name] = file
	}
	fset := token.NewFileSet()
	var files []*ast.File
	for _, name := range product(t) {
		if path.Dir(name) != "." {
			continue
		}
		file, err := parser.ParseFile(fset, name, read(t, name), parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
	}
	config := types.Config{Importer: importer.ForCompiler(fset, "gc", func(name string) (io.ReadCloser, error) {
		return os.Open(exports[name])
	})}
	info := &types.Info{Uses: make(map[*ast.Ident]types.Object)}
	pkg, err := config.Check(module, fset, files, info)
	if err != nil {
		t.Fatal(err)
	}
	fileOf := func(at token.Pos) string { return fset.Position(at).Filename }
	found := make(map[arrow]string)
	for _, file := range files {
		for _, d := range file.Decls {
			own := ofReceiver(d, info)
			ast.Inspect(d, func(n ast.Node) bool {
				name, _ := n.(*ast.Ident)
				used := origin(info.Uses[name])
				if used == nil || used.Pkg() != pkg || slices.Contains(own, used) {
					return true
				}
				if a := (arrow{fileOf(name.Pos()), fileOf(used.Pos())}); a.from != a.to {
					found[a] = used.Name()
				}
				return true
			})
		}
	}
	return found
}

// origin returns what o was declared as. For a field or method of an instance of a
// generic type, that is the one of the type. For a package it is nil.
func origin(o types.Object) types.Object {
	switch o := o.(type) {
	case *types.PkgName:
		return nil
	case *types.Var:
		return o.Origin()
	case *types.Func:
		return o.Origin()
	}
	return o
}

// ofReceiver returns the type of a method's receiver and its fields.
func ofReceiver(d ast.Decl, info *types.Info) (own []types.Object) {
	f, ok := d.(*ast.FuncDecl)
	if !ok || f.Recv == nil {
		return nil
	}
	ast.Inspect(f.Recv.List[0].Type, func(n ast.Node) bool {
		name, _ := n.(*ast.Ident)
		if t, ok := info.Uses[name].(*types.TypeName); ok {
			own = append(own, t)
			if s, ok := t.Type().Underlying().(*types.Struct); ok {
				for field := range s.Fields() {
					own = append(own, field)
				}
			}
		}
		return true
	})
	return own
}
