package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"
	"testing"
)

// A tb is a testing.TB outside of a test: the rig and its servers need one. It has the
// methods that they call, and panics in others.
type tb struct {
	testing.TB
	name string
	ctx  context.Context

	mu       sync.Mutex
	failed   bool
	skipped  bool
	said     []string
	cleanups []func()
}

// run calls f, then what is to be cleaned up.
func run(name string, f func(t testing.TB)) *tb {
	ctx, cancel := context.WithCancel(context.Background())
	t := &tb{name: name, ctx: ctx}
	done := make(chan struct{})
	go func() { // which Fatal ends
		defer close(done)
		f(t)
	}()
	<-done
	cancel()
	for len(t.cleanups) > 0 {
		last := len(t.cleanups) - 1
		cleanup := t.cleanups[last]
		t.cleanups = t.cleanups[:last]
		cleanup()
	}
	return t
}

func (t *tb) Helper()                  {}
func (t *tb) Name() string             { return t.name }
func (t *tb) Context() context.Context { return t.ctx }

func (t *tb) Cleanup(f func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cleanups = append(t.cleanups, f)
}

func (t *tb) TempDir() string {
	dir, err := os.MkdirTemp("", "faults")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func (t *tb) say(failed bool, text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.failed = t.failed || failed
	t.said = append(t.said, text)
}

func (t *tb) Log(args ...any)                   { t.say(false, fmt.Sprintln(args...)) }
func (t *tb) Logf(format string, args ...any)   { t.say(false, fmt.Sprintf(format, args...)) }
func (t *tb) Error(args ...any)                 { t.say(true, fmt.Sprintln(args...)) }
func (t *tb) Errorf(format string, args ...any) { t.say(true, fmt.Sprintf(format, args...)) }

func (t *tb) Fatal(args ...any) {
	t.Error(args...)
	runtime.Goexit()
}

func (t *tb) Fatalf(format string, args ...any) {
	t.Errorf(format, args...)
	runtime.Goexit()
}

// Skip is called for servers that are not installed.
func (t *tb) Skip(args ...any) {
	t.mu.Lock()
	t.skipped = true
	t.mu.Unlock()
	runtime.Goexit()
}

func (t *tb) Failed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.failed
}

// told returns what was said.
func (t *tb) told() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.said)
}
