package main

import (
	"bytes"
	"cmp"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// variable is the environment variable with the number of the mutant.
const variable = "HERALD_MUTANT"

// A mutant is a change of one operator.
type mutant struct {
	kind  string
	place string // its file and line, the operator marked
	line  int

	// Of a constant only, which no variable can change: the file as it then is, to
	// be compiled alone.

	file   string
	source []byte
}

// constants are what becomes of the operators in constants.
var constants = map[token.Token]token.Token{
	token.ADD: token.SUB, token.SUB: token.ADD, token.MUL: token.QUO, token.QUO: token.MUL, token.REM: token.MUL,
}

// conditionals are what becomes of comparisons: if they are negated, and if their
// bound is moved.
var conditionals = map[token.Token]struct{ negated, moved token.Token }{
	token.EQL: {negated: token.NEQ},
	token.NEQ: {negated: token.EQL},
	token.LSS: {token.GEQ, token.LEQ},
	token.LEQ: {token.GTR, token.LSS},
	token.GTR: {token.LEQ, token.GEQ},
	token.GEQ: {token.LSS, token.GTR},
}

// arithmetic are the functions below that calculate.
var arithmetic = map[token.Token]string{
	token.ADD: "mutantAdd", token.SUB: "mutantSub", token.MUL: "mutantMul", token.QUO: "mutantQuo", token.REM: "mutantRem",
	token.INC: "mutantInc", token.DEC: "mutantDec",
}

// runtime is what the changed code calls.
const runtime = `
import (
	"os"
	"strconv"
)

var mutant, _ = strconv.Atoi(os.Getenv("` + variable + `"))

type mutantFloat interface{ ~float32 | ~float64 }

type mutantInt interface {
	~int | ~int8 | ~int16 | ~int32 | ~int64 | ~uint | ~uint8 | ~uint16 | ~uint32 | ~uint64 | ~uintptr
}

type mutantNumber interface{ mutantInt | mutantFloat }

func mutantAdd[T mutantNumber](n int, a, b T) T { if mutant == n { return a - b }; return a + b }
func mutantSub[T mutantNumber](n int, a, b T) T { if mutant == n { return a + b }; return a - b }
func mutantMul[T mutantNumber](n int, a, b T) T { if mutant == n { return a / b }; return a * b }
func mutantQuo[T mutantNumber](n int, a, b T) T { if mutant == n { return a * b }; return a / b }
func mutantRem[T mutantInt](n int, a, b T) T { if mutant == n { return a * b }; return a % b }
func mutantNeg[T mutantNumber](n int, a T) T { if mutant == n { return a }; return -a }
func mutantInc[T mutantNumber](n int, a T) T { if mutant == n { return a - 1 }; return a + 1 }
func mutantDec[T mutantNumber](n int, a T) T { if mutant == n { return a + 1 }; return a - 1 }
`

// A loaded is a package with its types.
type loaded struct {
	name, dir string
	fset      *token.FileSet
	files     []*ast.File
	types     map[ast.Expr]types.TypeAndValue
}

// load reads the product code of a package.
func load(dir string) (*loaded, error) {
	cmd := exec.Command("go", "list", "-export", "-deps", "-f", "{{.ImportPath}}\t{{.Export}}\t{{.DepOnly}}\t{{join .GoFiles \" \"}}", dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, err
	}
	p := &loaded{dir: dir, fset: token.NewFileSet(), types: make(map[ast.Expr]types.TypeAndValue)}
	exports := make(map[string]string)
	importPath := ""
	for line := range strings.Lines(string(out)) {
		cells := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if exports[cells[0]] = cells[1]; cells[2] == "true" {
			continue
		}
		importPath = cells[0]
		for name := range strings.FieldsSeq(cells[3]) {
			file, err := parser.ParseFile(p.fset, filepath.Join(dir, name), nil, parser.SkipObjectResolution)
			if err != nil {
				return nil, err
			}
			p.name = file.Name.Name
			p.files = append(p.files, file)
		}
	}
	config := types.Config{Importer: importer.ForCompiler(p.fset, "gc", func(path string) (io.ReadCloser, error) {
		return os.Open(exports[path])
	})}
	_, err = config.Check(importPath, p.fset, p.files, &types.Info{Types: p.types})
	return p, err
}

// mutate returns all mutants of the file, or of all files, and what is to be
// compiled instead of which files: the mutant with number i+1 is the i-th.
func (p *loaded) mutate(work, only string) (overlay map[string]string, mutants []mutant, err error) {
	overlay = make(map[string]string)
	put := func(name string, content []byte) error {
		overlay[name] = filepath.Join(work, fmt.Sprintf("overlay%d.go", len(overlay)))
		return os.WriteFile(overlay[name], content, 0o644)
	}
	for _, file := range p.files {
		name := p.fset.Position(file.Package).Filename
		if only != "" && filepath.Base(name) != only {
			continue
		}
		src, err := os.ReadFile(name)
		if err != nil {
			return nil, nil, err
		}
		m := mutator{loaded: p, name: filepath.Clean(name), src: src, mutants: mutants}
		changed := m.change(file)
		mutants = m.mutants
		if err := put(m.name, changed); err != nil {
			return nil, nil, err
		}
	}
	return overlay, mutants, put(filepath.Join(filepath.Clean(p.dir), "mutant_.go"), []byte("package "+p.name+"\n"+runtime))
}

// A mutator changes one file.
type mutator struct {
	*loaded
	name    string
	src     []byte
	mutants []mutant
}

// An edit replaces a piece of the source.
type edit struct {
	from, to int
	text     string
}

// add returns the number of a new mutant.
func (m *mutator) add(kind string, operator token.Token, at token.Pos) int {
	pos := m.fset.Position(at)
	begin := bytes.LastIndexByte(m.src[:pos.Offset], '\n') + 1
	end := pos.Offset + bytes.IndexByte(m.src[pos.Offset:], '\n')
	op := operator.String()
	line := string(m.src[begin:pos.Offset]) + "«" + op + "»" + string(m.src[pos.Offset+len(op):end])
	m.mutants = append(m.mutants, mutant{kind: kind, place: m.name + ": " + strings.TrimSpace(line), line: pos.Line})
	return len(m.mutants)
}

// addConstant adds a mutant that has another operator, or none.
func (m *mutator) addConstant(kind string, operator token.Token, at token.Pos, other string) {
	n, from := m.add(kind, operator, at), m.offset(at)
	m.mutants[n-1].file = m.name
	m.mutants[n-1].source = slices.Concat(m.src[:from], []byte(other), m.src[from+len(operator.String()):])
}

// change returns the source of a node with all its mutants.
func (m *mutator) change(node ast.Node) []byte {
	from, to := m.offset(node.Pos()), m.offset(node.End())
	if _, ok := node.(*ast.File); ok {
		from, to = 0, len(m.src)
	}
	var edits []edit
	ast.Inspect(node, func(n ast.Node) bool {
		if n == nil {
			return false
		}
		text := m.changed(n)
		if text != "" {
			edits = append(edits, edit{m.offset(n.Pos()), m.offset(n.End()), text})
		}
		return text == ""
	})
	slices.SortFunc(edits, func(a, b edit) int { return cmp.Compare(a.from, b.from) })
	var out []byte
	for _, e := range edits {
		out = append(append(out, m.src[from:e.from]...), e.text...)
		from = e.to
	}
	return append(out, m.src[from:to]...)
}

func (m *mutator) offset(p token.Pos) int { return m.fset.Position(p).Offset }

// changed returns what is to be there instead of the node, which has mutants of its
// own; or nothing if it has none.
func (m *mutator) changed(n ast.Node) string {
	switch n := n.(type) {
	case *ast.BinaryExpr:
		if other, ok := constants[n.Op]; m.types[n].Value != nil {
			if ok && m.number(n) {
				m.addConstant("ARITHMETIC_BASE", n.Op, n.OpPos, other.String())
			}
			return ""
		}
		if c, ok := conditionals[n.Op]; ok {
			return m.compare(n, c.negated, c.moved)
		}
		if f := arithmetic[n.Op]; f != "" && m.number(n) {
			number := m.add("ARITHMETIC_BASE", n.Op, n.OpPos)
			return fmt.Sprintf("%s(%d, %s, %s)", f, number, m.change(n.X), m.change(n.Y))
		}
	case *ast.UnaryExpr:
		switch {
		case n.Op != token.SUB:
		case m.types[n].Value != nil:
			m.addConstant("INVERT_NEGATIVES", n.Op, n.OpPos, "")
		default:
			return fmt.Sprintf("mutantNeg(%d, %s)", m.add("INVERT_NEGATIVES", n.Op, n.OpPos), m.change(n.X))
		}
	case *ast.IncDecStmt:
		number := m.add("INCREMENT_DECREMENT", n.Tok, n.TokPos)
		x := m.change(n.X)
		return fmt.Sprintf("%s = %s(%d, %s)", x, arithmetic[n.Tok], number, x)
	}
	return ""
}

// compare returns a comparison with its mutants.
func (m *mutator) compare(n *ast.BinaryExpr, negated, moved token.Token) string {
	var numbers [2]int
	if moved != token.ILLEGAL {
		numbers[1] = m.add("CONDITIONALS_BOUNDARY", n.Op, n.OpPos)
	}
	numbers[0] = m.add("CONDITIONALS_NEGATION", n.Op, n.OpPos)
	x, y := m.change(n.X), m.change(n.Y)
	text := fmt.Sprintf("(mutant != %d && (%s %s %s) || mutant == %d && (%s %s %s))", numbers[0], x, n.Op, y, numbers[0], x, negated, y)
	if moved != token.ILLEGAL {
		text = fmt.Sprintf("(mutant != %d && %s || mutant == %d && (%s %s %s))", numbers[1], text, numbers[1], x, moved, y)
	}
	return text
}

// number reports whether an expression is of a type that the functions take.
func (m *mutator) number(e ast.Expr) bool {
	t := m.types[e].Type
	if _, ok := t.(*types.TypeParam); ok {
		return false
	}
	b, ok := t.Underlying().(*types.Basic)
	return ok && b.Info()&(types.IsInteger|types.IsFloat) != 0
}
