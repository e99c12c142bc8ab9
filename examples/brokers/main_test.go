package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/heraldgo/herald/examples/chat/demo"
	"github.com/heraldgo/herald/internal/test/redistest"
	"github.com/heraldgo/herald/internal/test/servertest"
)

// patience is how long a test waits for what must happen.
const patience = 30 * time.Second

// The test binary is the program, too.
func TestMain(m *testing.M) {
	if os.Getenv("BROKERS_MAIN") == "1" {
		main()
		return
	}
	os.Exit(m.Run())
}

func program(t *testing.T, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), "BROKERS_MAIN=1")
	return cmd
}

// On each broker two users who are on two nodes write to each other, and a node
// is stopped and started again.
func TestBrokers(t *testing.T) {
	for name, args := range map[string]func(t *testing.T) []string{
		"redis": func(t *testing.T) []string {
			return []string{"-bus", "redis://" + redistest.Start(t).Addr}
		},
		"redis and another": func(t *testing.T) []string {
			return []string{"-bus", "redis://" + redistest.Start(t).Addr, "-redis", "redis://" + redistest.Start(t).Addr}
		},
		"redis+cluster": func(t *testing.T) []string {
			return []string{"-bus", "redis+cluster://" + strings.Join(redistest.StartCluster(t, 3, 0).Addrs(), ",")}
		},
		"redis+sentinel": func(t *testing.T) []string {
			return []string{"-bus", "redis+sentinel://" + strings.Join(redistest.StartSentinels(t).Addrs(), ",") + "/" + redistest.MasterName}
		},
		"amqp": func(t *testing.T) []string {
			return []string{"-bus", "amqp://guest:guest@" + servertest.RabbitMQ(t).Addr}
		},
		"mqtt": func(t *testing.T) []string {
			return []string{"-bus", "mqtt://" + servertest.Mosquitto(t).Addr, "-redis", "redis://" + redistest.Start(t).Addr}
		},
		"kafka": func(t *testing.T) []string {
			brokers, err := kfake.NewCluster(kfake.NumBrokers(3))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(brokers.Close)
			return []string{"-bus", "kafka://" + strings.Join(brokers.ListenAddrs(), ",")}
		},
		"nats": func(t *testing.T) []string {
			return []string{"-bus", "nats://" + servertest.NATS(t).Addr}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := start(t, args(t))
			ann, bob := d.connect(d.nodes[0], "ann"), d.connect(d.nodes[1], "bob")
			bob.say(`{"type":"direct","to":"ann","text":"hello"}`)
			ann.await("direct", "bob", "hello")
			bob.await("direct", "bob", "hello")
			ann.say(`{"type":"room","text":"hello, everyone"}`)
			bob.await("room", "ann", "hello, everyone")
			ann.await("room", "ann", "hello, everyone")
			for _, base := range []string{d.door, d.nodes[0], d.nodes[1]} {
				d.awaitOnline(base, "ann", true)
			}

			d.order("n1", "stop")
			d.awaitOnline(d.door, "ann", false)
			bob.say(`{"type":"room","text":"gone?"}`)
			bob.await("room", "bob", "gone?")
			d.order("n1", "start")
			ann = d.connect(d.nodes[0], "ann")
			bob.say(`{"type":"direct","to":"ann","text":"welcome back"}`)
			ann.await("direct", "bob", "welcome back")
			d.end()
		})
	}
}

// A running is a child process.
type running struct {
	*testing.T
	cmd    *exec.Cmd
	stderr bytes.Buffer
	door   string
	nodes  []string
}

func start(t *testing.T, args []string) *running {
	t.Helper()
	d := &running{T: t, cmd: program(t, append(args, "-addr", "127.0.0.1:0", "-nodes", "2")...)}
	d.cmd.Stderr = &d.stderr
	stdout, err := d.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stdout)
	for _, to := range []func(string){
		func(url string) { d.door = url },
		func(url string) { d.nodes = append(d.nodes, url) },
		func(url string) { d.nodes = append(d.nodes, url) },
	} {
		if !lines.Scan() {
			d.cmd.Wait()
			t.Fatalf("%q did not start: %s", args, d.stderr.String())
		}
		words := strings.Fields(lines.Text())
		to(words[len(words)-1])
	}
	return d
}

// end ends the demo gracefully.
func (d *running) end() {
	d.Helper()
	d.cmd.Process.Signal(syscall.SIGTERM)
	if err := d.cmd.Wait(); err != nil {
		d.Errorf("%v: %s", err, d.stderr.String())
	}
	d.Logf("stderr: %s", d.stderr.String())
}

// A client is a device of a user.
type client struct {
	*testing.T
	ws *websocket.Conn
}

func (d *running) connect(base, user string) *client {
	d.Helper()
	ctx, cancel := context.WithTimeout(d.Context(), patience)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, base+"/ws?user="+user, nil)
	if err != nil {
		d.Fatalf("connect %s: %v: %s", user, err, d.stderr.String())
	}
	d.Cleanup(func() { ws.CloseNow() })
	return &client{d.T, ws}
}

func (c *client) say(text string) {
	c.Helper()
	if err := c.ws.Write(c.Context(), websocket.MessageText, []byte(text)); err != nil {
		c.Fatal(err)
	}
}

// await reads the next message, which must be this one, if it is no receipt.
func (c *client) await(kind, from, text string) {
	c.Helper()
	ctx, cancel := context.WithTimeout(c.Context(), patience)
	defer cancel()
	var m struct{ Type, From, Text string }
	var data []byte
	var err error
	for first := true; first || m.Type == "receipt"; first = false {
		if _, data, err = c.ws.Read(ctx); err != nil {
			c.Fatal(err)
		}
		err = json.Unmarshal(data, &m)
	}
	if err != nil || m.Type != kind || m.From != from || m.Text != text {
		c.Fatalf("got %s, %v: want type %q, from %q, text %q", data, err, kind, from, text)
	}
}

// awaitOnline asks until a user is online, or is not.
func (d *running) awaitOnline(base, user string, want bool) {
	d.Helper()
	var answer struct{ Online bool }
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		response, err := http.Get(base + "/api/online?user=" + user)
		if err != nil {
			d.Fatal(err)
		}
		err = json.NewDecoder(response.Body).Decode(&answer)
		response.Body.Close()
		if err == nil && response.StatusCode == http.StatusOK && answer.Online == want {
			return
		}
		if time.Now().After(deadline) {
			d.Fatalf("%s: %s is online: %v, %v", base, user, answer.Online, err)
		}
	}
}

// order stops or starts a node.
func (d *running) order(node, what string) {
	d.Helper()
	response, err := http.Post(d.door+"/api/nodes/"+node+"/"+what, "", nil)
	if err != nil {
		d.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusNoContent {
		d.Fatalf("%s %s: %s", what, node, response.Status)
	}
}

// Each fault is one line on stderr and exit 1, without the password.
func TestFaults(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"", "-bus: must be set"},
		{"-bus localhost:5672", `-bus "localhost:5672": must be a URL of redis://`},
		{"-bus http://u:secret@h", `-bus "http://xxxxx@h": must be a URL of redis://`},
		{"-bus redis+sentinel://:secret@h:1,h:2", `-bus "redis+sentinel://xxxxx@h:1,h:2": the name of the master is missing`},
		{"-bus redis+cluster://:secret@h:1,h", `-bus "redis+cluster://xxxxx@h:1,h": host "h": must be host:port`},
		{"-bus redis://:secret@127.0.0.1:1", `redis "redis://xxxxx@127.0.0.1:1" does not answer`},
		{"-bus redis+sentinel://:secret@127.0.0.1:1,127.0.0.1:2/main", "does not answer"},
		{"-bus redis+cluster://:secret@127.0.0.1:1,127.0.0.1:2", "does not answer"},
		{"-bus amqp://u:secret@127.0.0.1:1", "-bus \"amqp://xxxxx@127.0.0.1:1\": herald: bus is down"},
		{"-bus amqp://u:sec%ret@127.0.0.1:1", "-bus \"amqp://xxxxx@127.0.0.1:1\": herald: invalid argument"},
		{"-bus mqtt://u:secret@127.0.0.1:1", "-bus \"mqtt://xxxxx@127.0.0.1:1\": herald: bus is down"},
		{"-bus mqtt://u:secret@127.0.0.1:1/path", "-bus \"mqtt://xxxxx@127.0.0.1:1/path\": herald: invalid argument"},
		{"-bus kafka://127.0.0.1:1/topic", "-bus \"kafka://127.0.0.1:1/topic\": herald: bus is down"},
		{"-bus kafka://u:secret@127.0.0.1:1", "-bus \"kafka://xxxxx@127.0.0.1:1\": herald: invalid argument"},
		{"-bus nats://u:secret@127.0.0.1:1", "-bus \"nats://xxxxx@127.0.0.1:1\": herald: bus is down"},
		{"-bus nats://u:secret@127.0.0.1:x", "-bus \"nats://xxxxx@127.0.0.1:x\": herald: invalid argument"},
		{"-bus nats://127.0.0.1:1 -redis http://u:secret@h", `-redis "http://xxxxx@h": redis: invalid URL scheme: http: must be redis://`},
		{"-bus nats://127.0.0.1:1 -nodes 0", "-nodes 0: must be 1 to 64"},
	} {
		t.Run(c.args, func(t *testing.T) {
			t.Parallel()
			cmd := program(t, strings.Fields("-addr 127.0.0.1:0 "+c.args)...)
			var stdout, stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			cmd.Run()
			said := stderr.String()
			if cmd.ProcessState.ExitCode() != 1 || strings.Count(said, "\n") != 1 || !strings.Contains(said, c.want) || stdout.Len() > 0 {
				t.Errorf("exit %d, %q, %q: want exit 1 and one line with %q", cmd.ProcessState.ExitCode(), stdout.String(), said, c.want)
			}
			if strings.Contains(said, "secret") || strings.Contains(said, "sec%ret") {
				t.Errorf("the password is in it: %s", said)
			}
		})
	}
}

func TestHelp(t *testing.T) {
	out, err := program(t, "-h").Output()
	if err != nil || !bytes.Contains(out, []byte("-bus URL")) || !bytes.Contains(out, []byte("-nodes")) {
		t.Errorf("%v: %s", err, out)
	}
}

// Each command of the README is one, and there is one for each kind of broker.
func TestReadme(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	kinds := make(map[string]bool)
	for line := range strings.Lines(string(readme)) {
		address, found := strings.CutPrefix(strings.TrimSpace(line), "go run . -bus ")
		if !found {
			continue
		}
		if err := useBus(new(demo.Options), address); err != nil {
			t.Error(err)
		}
		kind, _, _ := strings.Cut(address, "://")
		kinds[kind] = true
	}
	for _, kind := range []string{"redis", "redis+cluster", "redis+sentinel", "amqp", "mqtt", "kafka", "nats"} {
		if !kinds[kind] {
			t.Errorf("there is no command for %s://", kind)
		}
	}
}
