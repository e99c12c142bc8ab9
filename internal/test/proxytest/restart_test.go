package proxytest_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/test/wsraw"
)

// clients is how many there are of them, spread over three nodes.
const clients = 300

// maxBackoff is the longest that a client waits before it comes again.
const maxBackoff = 500 * time.Millisecond

// A fleet is the clients of a restart.
type fleet struct {
	t    *testing.T
	addr string

	stopped   chan struct{} // closed at the end
	running   sync.WaitGroup
	connected atomic.Int64 // now
	came      atomic.Int64 // handshakes that succeeded
	got       atomic.Int64 // messages
}

// run keeps one client connected. When it is closed it waits once, and its next
// handshake must succeed.
func (f *fleet) run(user string) {
	for {
		ws, response, err := dial(f.addr, user, nil)
		if err != nil {
			f.t.Errorf("%s: a handshake failed: %v, %v", user, err, response)
			return
		}
		f.connected.Add(1)
		f.came.Add(1)
		stopped := f.read(user, ws)
		f.connected.Add(-1)
		if stopped {
			return
		}
		select {
		case <-time.After(rand.N(maxBackoff)):
		case <-f.stopped:
			return
		}
	}
}

// read takes messages, and answers each tenth, until the connection ends. It
// says whether that is because the fleet has stopped.
func (f *fleet) read(user string, ws *wsraw.Conn) (stopped bool) {
	defer ws.Close()
	end := make(chan struct{})
	defer close(end)
	go func() {
		select {
		case <-f.stopped:
			ws.Close()
		case <-end:
		}
	}()
	for n := 0; ; n++ {
		_, err := ws.ReadMessage()
		var closed *wsraw.Closed
		select {
		case <-f.stopped:
			return true
		default:
		}
		switch {
		case err == nil:
			f.got.Add(1)
			if n%10 == 9 {
				ws.WriteFrames(wsraw.Frame{Fin: true, Opcode: wsraw.Text, Payload: []byte("from " + user)})
			}
		case errors.As(err, &closed) && closed.Code == uint16(herald.StatusServiceRestart):
			ws.WriteFrames(wsraw.CloseFrame(closed.Code, ""))
			return false
		default:
			f.t.Errorf("%s: %v, want a close with %d", user, err, herald.StatusServiceRestart)
			return false
		}
	}
}

func (f *fleet) await(what string, cond func() bool) {
	f.t.Helper()
	for deadline := time.Now().Add(patience); !cond(); time.Sleep(10 * time.Millisecond) {
		if f.t.Failed() || time.Now().After(deadline) {
			f.t.Fatalf("no %s: %d of %d are connected", what, f.connected.Load(), clients)
		}
	}
}

// While three nodes restart one after the other, under load, each client is
// closed with 1012, waits once, and is back with its first handshake.
func TestRollingRestart(t *testing.T) {
	eachProxy(t, nil, func(t *testing.T, addr string, nodes []*node, checks bool) {
		f := &fleet{t: t, addr: addr, stopped: make(chan struct{})}
		defer f.running.Wait()
		var once sync.Once
		stop := func() { once.Do(func() { close(f.stopped) }) }
		defer stop()
		for i := range clients {
			f.running.Go(func() { f.run(fmt.Sprint("user", i)) })
		}
		f.await("fleet", func() bool { return f.connected.Load() == clients })
		f.running.Go(func() { // the load
			sender, err := herald.New(herald.Config{Bus: nodes[0].network.Bus(), Registry: nodes[0].registry.Handle()})
			if err != nil {
				t.Error(err)
				return
			}
			defer sender.Shutdown(context.Background())
			for {
				if err := sender.Send(context.Background(), herald.Everyone(), herald.Text("news")); err != nil {
					t.Error(err)
				}
				select {
				case <-time.After(250 * time.Millisecond):
				case <-f.stopped:
					return
				}
			}
		})
		for i, n := range nodes {
			conns := n.hub.Stats().Conns
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second) // of which the last clients have one
			err := n.stop(ctx)
			cancel()
			if err != nil {
				t.Errorf("node %d: %v", i, err)
			}
			n.start(t)
			if checks {
				n.awaitChecks(t)
			}
			t.Logf("node %d had %d connections", i, conns)
		}
		f.await("fleet again", func() bool { return f.connected.Load() == clients })
		got := f.got.Load()
		f.await("messages", func() bool { return f.got.Load() >= got+clients })
		if n := f.came.Load(); n < clients+clients/3 {
			t.Errorf("%d handshakes of %d clients: most were not closed", n, clients)
		}
		stop()
		f.running.Wait()
		for i, n := range nodes {
			if log := n.log.String(); strings.Contains(log, "refused=") || strings.Contains(log, "level=ERROR") {
				t.Errorf("node %d has logged:\n%s", i, log)
			}
		}
	})
}
