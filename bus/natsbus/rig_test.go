package natsbus_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/bus/natsbus"
	"github.com/heraldgo/herald/internal/test/bustest"
)

const patience = bustest.Patience

// quick returns options with which faults are found soon, and a prefix of
// the test's own.
func quick() *natsbus.Options {
	return &natsbus.Options{Prefix: "test." + rand.Text(), ProbeInterval: time.Second / 10, ProbeTimeout: time.Second}
}

// A rig is a Bus whose events are received all the time.
type rig struct {
	*natsbus.Bus
	*bustest.Recorder
	t testing.TB
}

// open opens a Bus that is closed when the test ends.
func open(t testing.TB, url string, options *natsbus.Options) *rig {
	t.Helper()
	bus, err := natsbus.New(url, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { bus.Close() })
	return &rig{Bus: bus, Recorder: bustest.Record(t, bus), t: t}
}

// count returns how many events of the kind there were; of packets those with data.
func (r *rig) count(kind herald.EventKind, data string) int {
	n := 0
	for _, e := range r.Events() {
		if e.Kind == kind && (kind != herald.EventPacket || string(e.Packet.Data) == data) {
			n++
		}
	}
	return n
}

func (r *rig) awaitPacket(data string) {
	r.t.Helper()
	r.Await(fmt.Sprintf("packet %q", data), func() bool { return r.count(herald.EventPacket, data) > 0 })
}

// awaitKind waits for the nth event of the kind.
func (r *rig) awaitKind(kind herald.EventKind, n int) {
	r.t.Helper()
	r.Await(fmt.Sprintf("event %d of kind %d", n, kind), func() bool { return r.count(kind, "") >= n })
}

// first returns the first event of the kind.
func (r *rig) first(kind herald.EventKind) herald.Event {
	for _, e := range r.Events() {
		if e.Kind == kind {
			return e.Event
		}
	}
	return herald.Event{}
}

func (r *rig) subscribe(topics ...string) {
	r.t.Helper()
	if err := r.Subscribe(r.context(), topics...); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) context() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	r.t.Cleanup(cancel)
	return ctx
}

// try publishes data once.
func (r *rig) try(topic, data string) error {
	return r.Publish(r.context(), herald.Packet{Topic: topic, Data: []byte(data)})
}

func (r *rig) publish(topic, data string) {
	r.t.Helper()
	if err := r.try(topic, data); err != nil {
		r.t.Fatal(err)
	}
}

// publishAgain publishes data until it is taken.
func (r *rig) publishAgain(topic, data string) {
	r.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		err := r.try(topic, data)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatal(err)
		}
	}
}

// awaitHealthy waits until Health is nil.
func (r *rig) awaitHealthy() {
	r.t.Helper()
	for deadline := time.Now().Add(patience); r.Health() != nil; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatal(r.Health())
		}
	}
}

// awaitRed waits until Health is not nil.
func (r *rig) awaitRed() {
	r.t.Helper()
	for deadline := time.Now().Add(patience); r.Health() == nil; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatal("Health stays nil")
		}
	}
}

// config writes a configuration file of nats-server and returns its path.
func config(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "nats.conf")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// mayBeTaken reports whether err allows a packet to arrive.
func mayBeTaken(err error) bool { return err == nil || errors.Is(err, herald.ErrUnknown) }

// shortly returns a context that ends soon.
func shortly(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}
