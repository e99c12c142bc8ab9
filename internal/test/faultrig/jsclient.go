package faultrig

import (
	"bufio"
	"context"
	_ "embed"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/heraldgo/herald/internal/test/servertest"
	"github.com/heraldgo/herald/internal/wake"
)

//go:embed clients.mjs
var clientsScript []byte

// A script is a Node.js process that runs clients of client/js.
type script struct {
	t    testing.TB
	told wake.Signal // orders wait

	mu      sync.Mutex
	devices []*device
	orders  []byte // orders for stdin, queued because the goroutine that reads stdout must not block
	ending  bool
}

// startScript starts Node.js. path is that of herald.js. Without Node.js it skips
// the test, or fails it under CI=true.
func startScript(t testing.TB, path string) *script {
	t.Helper()
	node := servertest.Find("node")
	if node == "" {
		servertest.Missing(t, "node", "nodejs")
	}
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "clients.mjs")
	if err := os.WriteFile(file, clientsScript, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(node, file, path)
	var log servertest.Buffer
	cmd.Stderr = &log
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := &script{t: t, told: wake.New()}
	var running sync.WaitGroup
	ended := make(chan struct{})
	running.Go(func() {
		defer close(ended)
		s.read(stdout)
	})
	running.Go(func() { s.write(stdin, ended) })
	t.Cleanup(func() {
		s.mu.Lock()
		s.ending = true
		s.mu.Unlock()
		cmd.Process.Kill()
		running.Wait()
		cmd.Wait()
		if text := log.String(); text != "" {
			t.Logf("Node: %s", text)
		}
	})
	return s
}

// An order is a line to the script, about one client. The first one creates the
// client.
type order struct {
	ID    int    `json:"id"`
	URL   string `json:"url,omitempty"`
	Cut   *bool  `json:"cut,omitempty"`
	Stall *bool  `json:"stall,omitempty"`
}

func (s *script) tell(o order) {
	line, err := json.Marshal(o)
	if err != nil {
		s.t.Error(err)
		return
	}
	s.mu.Lock()
	s.orders = append(append(s.orders, line...), '\n')
	s.mu.Unlock()
	s.told.Set()
}

// write writes the orders to stdin until the script has ended.
func (s *script) write(stdin io.Writer, ended chan struct{}) {
	for {
		select {
		case <-s.told:
		case <-ended:
			return
		}
		s.mu.Lock()
		orders := s.orders
		s.orders = nil
		s.mu.Unlock()
		stdin.Write(orders) // if the script has ended, read reports it
	}
}

// read takes the script's reports.
func (s *script) read(stdout io.Reader) {
	lines := bufio.NewScanner(stdout)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var told struct {
			ID                             int
			At                             int64 // in microseconds
			Ask, On, Welcome, Resumed, Off bool
			Gap                            bool
			Data                           *string
			Ended                          int
		}
		if err := json.Unmarshal(lines.Bytes(), &told); err != nil {
			s.t.Errorf("Node told %q: %v", lines.Text(), err)
			continue
		}
		s.mu.Lock()
		d := s.devices[told.ID]
		s.mu.Unlock()
		at := told.At * 1000
		switch {
		case told.Ask:
			s.tell(order{ID: told.ID, URL: strings.Replace(d.choose(), "http", "ws", 1)})
		case told.On:
			d.note(happening{at: at, on: true})
		case told.Welcome:
			d.welcomed(told.Resumed)
		case told.Off:
			d.note(happening{at: at, off: true})
		case told.Gap:
			d.note(happening{at: at, gap: true})
		case told.Data != nil:
			d.take([]byte(*told.Data), at)
		case told.Ended != 0:
			s.t.Errorf("%v has ended with %d", d, told.Ended)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ending {
		s.t.Error("Node has ended")
	}
}

// A jsDevice runs client/js.
type jsDevice struct {
	*device
	script *script
	id     int
}

// add creates the script's client for a device.
func (s *script) add(d *device) *jsDevice {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.devices = append(s.devices, d)
	return &jsDevice{d, s, len(s.devices) - 1}
}

// run starts the client. It ends with the script.
func (d *jsDevice) run(ctx context.Context) {
	d.script.tell(order{ID: d.id})
	<-ctx.Done()
}

func (d *jsDevice) cut(on bool)   { d.script.tell(order{ID: d.id, Cut: &on}) }
func (d *jsDevice) stall(on bool) { d.script.tell(order{ID: d.id, Stall: &on}) }
