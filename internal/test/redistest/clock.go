package redistest

import (
	_ "embed"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/heraldgo/herald/internal/test/servertest"
)

//go:embed testdata/clock.c
var clockSource []byte

// A Clocked is a Server whose wall clock the test can step.
type Clocked struct {
	*Server

	file   *os.File // holds the offset
	offset time.Duration
}

// StartWithClock is Start for a server whose clock can be stepped. It needs a C
// compiler. Without one it skips the test, or fails it under CI=true.
func StartWithClock(t testing.TB, args ...string) *Clocked {
	t.Helper()
	dir := t.TempDir()
	library := filepath.Join(dir, "clock.so")
	compile(t, library)
	file, err := os.Create(filepath.Join(dir, "offset"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	if err := file.Truncate(8); err != nil {
		t.Fatal(err)
	}
	return &Clocked{
		Server: start(t, []string{"LD_PRELOAD=" + library, "HERALD_CLOCK=" + file.Name()}, args),
		file:   file,
	}
}

// Step moves the server's clock forward, or back if d is negative. The server sees
// the new time when it next reads its clock.
func (c *Clocked) Step(d time.Duration) {
	c.t.Helper()
	c.offset += d
	// This is one aligned word of a mapped page, which the server reads in one
	// access.
	if _, err := c.file.WriteAt(binary.NativeEndian.AppendUint64(nil, uint64(c.offset)), 0); err != nil {
		c.t.Fatal(err)
	}
}

// compile compiles clock.c to a library that can be preloaded into a server.
func compile(t testing.TB, library string) {
	t.Helper()
	source := filepath.Join(filepath.Dir(library), "clock.c")
	if err := os.WriteFile(source, clockSource, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, compiler := range []string{"gcc", "clang", "cc"} {
		if path := servertest.Find(compiler); path != "" {
			if out, err := exec.Command(path, "-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o", library, source).CombinedOutput(); err != nil {
				t.Fatalf("compile the clock: %v\n%s", err, out)
			}
			return
		}
	}
	servertest.Missing(t, "gcc", "gcc")
}
