package heraldtest

import (
	"context"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/heraldgo/herald"
)

// brokenEnv makes the test binary run what must fail. It is set in a child.
const brokenEnv = "HERALDTEST_BROKEN"

// broken are tests that must fail, by name, with all of these texts in their
// output.
var broken = map[string]struct {
	run  func(t *testing.T)
	want []string
}{
	"receive outlives close": {
		func(t *testing.T) { tryToy(t, "1 Delivery", func(b *toyBus) { b.keepsReceiving = true }) },
		[]string{"Close did not end Receive within 20s", "promise 14"},
	},
	"receive outlives everything": {
		func(t *testing.T) {
			tryToy(t, "1 Delivery", func(b *toyBus) { b.keepsReceiving, b.ignoresContext = true, true })
		},
		[]string{"Close did not end Receive within 20s", "promise 14", "a Receive whose context is done is left behind"},
	},
	"context ignored": {
		func(t *testing.T) { tryToy(t, "8 Blocking", func(b *toyBus) { b.ignoresContext = true }) },
		[]string{"Receive with a context that is done did not return within 20s", "promise 8"},
	},
	"close hangs": {
		func(t *testing.T) { tryToy(t, "14 Close", func(b *toyBus) { b.closeHangs = true }) },
		[]string{"Close did not return within 20s", "promise 14"},
	},
	"silent drops": {
		func(t *testing.T) {
			opened := 0
			tryToy(t, "11 Memory is bounded", func(b *toyBus) {
				if opened++; opened == 2 { // nobody receives from it
					b.buffer = 100
				}
			})
		},
		[]string{"60 of 160 packets did not come and no EventDown told of it: promise 9/11"},
	},
	"no bound": {
		func(t *testing.T) { tryToy(t, "11 Memory is bounded", func(*toyBus) {}) },
		[]string{"160 MB waited for Receive: where is the bound?"},
	},
	"publisher blocked": {
		func(t *testing.T) {
			tryToy(t, "11 Memory is bounded", func(b *toyBus) { b.buffer, b.blocks = 10, true })
		},
		[]string{"Publish, while a Bus does not call Receive, did not return within 20s", "promise 11"},
	},
	"two receivers": {
		func(t *testing.T) { tryToy(t, "15 One receiver", func(*toyBus) {}) },
		[]string{"one of two Receives under way at once did not return within 20s", "promise 15"},
	},
	"always well": {
		func(t *testing.T) { tryToy(t, "16 Health", func(b *toyBus) { b.alwaysWell = true }) },
		[]string{"Health is <nil> after 30s; it must be ErrClosed after Close", "promise 16"},
	},
	"well without a broker": {
		func(t *testing.T) {
			network := &toyNetwork{}
			tryPromise(t, "16 Health", BusNetwork{
				Open: func() herald.Bus { return network.open(func(*toyBus) {}) },
				Stop: func() func() { return func() {} },
			})
		},
		[]string{"Health is <nil> after 30s; it must be red while the broker is gone", "promise 16"},
	},
	"no BusNetwork.Open": {
		func(t *testing.T) { TestBus(t, func(testing.TB) BusNetwork { return BusNetwork{} }) },
		[]string{"BusNetwork.Open must be set"},
	},
	"no RegistryStore.Open": {
		func(t *testing.T) { TestRegistry(t, func(testing.TB) RegistryStore { return RegistryStore{} }) },
		[]string{"RegistryStore.Open must be set"},
	},
	"no nodes": {
		func(t *testing.T) { NewCluster(t, 0, herald.Config{}) },
		[]string{"a cluster of 0 nodes: it must have at least one"},
	},
	"no such node": {
		func(t *testing.T) { NewCluster(t, 1, herald.Config{}).Connect(1, herald.Identity{User: "42"}) },
		[]string{"no node 1: the cluster has 1"},
	},
	"no Retention": {
		func(t *testing.T) { NewCluster(t, 1, herald.Config{}).ConnectHistory(0, herald.Identity{User: "42"}) },
		[]string{"ConnectHistory: Config.Retention must be set"},
	},
	"a login of its own": {
		func(t *testing.T) { clusterWithLogin(t).Connect(0, herald.Identity{User: "42"}) },
		[]string{`connect as "42" to node 0: `, "401", "Config.Authenticate refused", "the Identity was not used", "dial Node.URL"},
	},
	"a login of its own and a history": {
		func(t *testing.T) { clusterWithLogin(t).ConnectHistory(0, herald.Identity{User: "42"}) },
		[]string{`connect as "42" to node 0: `, "401", "Config.Authenticate refused"},
	},
	"no message": {
		func(t *testing.T) { quietClient(t).Expect("x") },
		[]string{`nothing came within 20s; expected "x"`},
	},
	"something": {
		func(t *testing.T) {
			c := NewCluster(t, 2, herald.Config{})
			client := c.Connect(1, herald.Identity{User: "42"})
			if err := c.Nodes[0].Hub.Send(t.Context(), herald.User("42"), herald.Text("x")); err != nil {
				t.Fatal(err)
			}
			client.ExpectNothing()
		},
		[]string{`received "x", expected nothing`},
	},
	"nothing of one that is gone": {
		func(t *testing.T) {
			client := quietClient(t)
			client.Close()
			client.ExpectNothing()
		},
		[]string{"expected nothing"},
	},
	"no such health": {
		func(t *testing.T) { NewCluster(t, 1, herald.Config{}).Nodes[0].AwaitHealth(herald.ErrBusDown) },
		[]string{"Health did not become herald: bus is down within 30s; it is: <nil>"},
	},
	"no close": {
		func(t *testing.T) { quietClient(t).ExpectClose(4409) },
		[]string{"nothing came within 20s; expected close code 4409"},
	},
	"panic": {
		func(t *testing.T) {
			c := NewCluster(t, 1, herald.Config{OnMessage: func(context.Context, *herald.Conn, herald.Message) { panic("oops") }})
			client := c.Connect(0, herald.Identity{User: "42"})
			client.Send("")
			client.ExpectClose(1000)
		},
		[]string{"closed with 1011", "expected 1000", "level=ERROR", "oops"},
	},
}

// TestBroken runs all in one child, at the same time: most wait for 20 s.
func TestBroken(t *testing.T) {
	t.Parallel()
	if os.Getenv(brokenEnv) != "" {
		t.Skip("the child runs TestBrokenChild")
	}
	command := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestBrokenChild$", "-test.v", "-test.parallel=100", "-test.timeout=5m")
	command.Env = append(os.Environ(), brokenEnv+"=1")
	text, err := command.CombinedOutput()
	if err == nil || command.ProcessState.ExitCode() != 1 {
		t.Fatalf("what is broken must fail, not more: %v\n%s", err, text)
	}
	for name, test := range broken {
		output := outputOf(string(text), name)
		for _, want := range test.want {
			if !strings.Contains(output, want) {
				t.Errorf("%s: no %q in its output:\n%s", name, want, output)
			}
		}
	}
}

// TestBrokenChild is what TestBroken runs in a child; by itself it is empty.
func TestBrokenChild(t *testing.T) {
	if os.Getenv(brokenEnv) == "" {
		return
	}
	for name, test := range broken {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test.run(t)
		})
	}
}

// outputOf returns the lines of a verbose run that belong to a subtest of
// TestBrokenChild, and to its own.
func outputOf(text, name string) string {
	name = "TestBrokenChild/" + strings.ReplaceAll(name, " ", "_")
	var lines strings.Builder
	ours := false
	for line := range strings.Lines(text) {
		if header := strings.Fields(line); len(header) > 2 && (header[0] == "===" || header[0] == "---") {
			of := header[2]
			ours = of == name || strings.HasPrefix(of, name+"/")
		}
		if ours {
			lines.WriteString(line)
		}
	}
	return lines.String()
}

// quietClient is a Client that nobody sends to.
func quietClient(t *testing.T) *Client {
	return NewCluster(t, 1, herald.Config{}).Connect(0, herald.Identity{User: "42"})
}

// clusterWithLogin is a Cluster whose Authenticate knows nobody.
func clusterWithLogin(t *testing.T) *Cluster {
	return NewCluster(t, 1, herald.Config{
		Retention:    time.Minute,
		Authenticate: func(*http.Request) (herald.Identity, error) { return herald.Identity{}, http.ErrNoCookie },
	})
}

// tryToy tries one promise on toyBuses that are broken in the same way.
func tryToy(t *testing.T, promise string, spoil func(*toyBus)) {
	network := &toyNetwork{}
	tryPromise(t, promise, BusNetwork{Open: func() herald.Bus { return network.open(spoil) }})
}

func tryPromise(t *testing.T, promise string, network BusNetwork) {
	i := slices.IndexFunc(busPromises, func(p busPromise) bool { return p.name == promise })
	busPromises[i].try(t, network, new(bool))
}

// A toyNetwork is a broker of a few lines, as somebody may write it for a
// test. Whatever it does wrong is asked for in a toyBus.
type toyNetwork struct {
	mu    sync.Mutex
	buses []*toyBus
}

func (n *toyNetwork) open(spoil func(*toyBus)) *toyBus {
	b := &toyBus{network: n, buffer: 1000, quit: make(chan struct{})}
	spoil(b)
	b.packets = make(chan herald.Packet, b.buffer)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.buses = append(n.buses, b)
	return b
}

// A toyBus gets the packets of all topics. It breaks promise 11 at the least.
type toyBus struct {
	network *toyNetwork
	packets chan herald.Packet
	quit    chan struct{}
	once    sync.Once

	// What is wrong with it.

	buffer         int  // packets that wait; beyond it they are dropped
	blocks         bool // they are not dropped, and Publish waits
	keepsReceiving bool // Close does not end Receive
	ignoresContext bool // nor does its context
	closeHangs     bool
	alwaysWell     bool // Health is nil for ever
}

func (b *toyBus) Publish(ctx context.Context, packets ...herald.Packet) error {
	if err := b.failing(ctx); err != nil {
		return err
	}
	b.network.mu.Lock()
	buses := slices.Clone(b.network.buses)
	b.network.mu.Unlock()
	for _, p := range packets {
		p.Data = slices.Clone(p.Data)
		for _, to := range buses {
			if to.blocks {
				to.packets <- p
				continue
			}
			select {
			case to.packets <- p:
			default:
			}
		}
	}
	return nil
}

func (b *toyBus) failing(ctx context.Context) error {
	select {
	case <-b.quit:
		return herald.ErrClosed
	default:
		return ctx.Err()
	}
}

func (b *toyBus) Subscribe(ctx context.Context, _ ...string) error   { return b.failing(ctx) }
func (b *toyBus) Unsubscribe(ctx context.Context, _ ...string) error { return b.failing(ctx) }

func (b *toyBus) Receive(ctx context.Context) (herald.Event, error) {
	quit, done := b.quit, ctx.Done()
	if b.keepsReceiving {
		quit = nil
	}
	if b.ignoresContext {
		done = nil
	}
	select {
	case p := <-b.packets:
		return herald.Event{Kind: herald.EventPacket, Packet: p}, nil
	case <-quit:
		return herald.Event{}, herald.ErrClosed
	case <-done:
		return herald.Event{}, ctx.Err()
	}
}

func (b *toyBus) Reset() {}

func (b *toyBus) Health() error {
	if b.alwaysWell {
		return nil
	}
	return b.failing(context.Background())
}

func (b *toyBus) Close() error {
	if b.closeHangs {
		select {}
	}
	b.once.Do(func() { close(b.quit) })
	return nil
}
