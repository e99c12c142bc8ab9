package herald

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"testing"

	"github.com/heraldgo/herald/internal/test/redistest"
	"github.com/heraldgo/herald/internal/test/wsraw"
)

// newPair starts two rigs that are nodes of one cluster, in memory or on a
// redis-server.
func newPair(t *testing.T, onRedis bool, config Config) []*rig {
	t.Helper()
	network, registry := NewMemoryNetwork(), NewMemoryRegistry()
	var server *redistest.Server
	if onRedis {
		server = redistest.Start(t)
	}
	var rigs []*rig
	for i := range 2 {
		config.Name = fmt.Sprint("node", i)
		if onRedis {
			config.Redis = server.Client()
		} else {
			config.Bus, config.Registry = network.Bus(), registry.Handle()
		}
		rigs = append(rigs, newRig(t, config))
	}
	return rigs
}

// A client of a race: it connects, stays until it is closed or decides to go.
type racer struct {
	ws   *wsraw.Conn
	code StatusCode // it saw
	done chan struct{}
}

func race(ws *wsraw.Conn) *racer {
	c := &racer{ws: ws, done: make(chan struct{})}
	go func() {
		defer close(c.done)
		defer ws.Close()
		if closed, err := ws.ReadClose(); err == nil {
			c.code = StatusCode(closed.Code)
			ws.WriteFrames(wsraw.CloseFrame(closed.Code, ""))
		}
	}()
	return c
}

func (c *racer) alive() bool {
	select {
	case <-c.done:
		return false
	default:
		return true
	}
}

func TestMaxPerUserRace(t *testing.T) {
	for name, onRedis := range map[string]bool{"memory": false, "redis": true} {
		t.Run(name, func(t *testing.T) {
			const users, connects, limit = 10, 1000, 3
			rigs := newPair(t, onRedis, Config{Admit: MaxPerUser(limit), CloseTimeout: patience, OfflineDelay: -1})
			var connecting sync.WaitGroup
			for worker := range 16 {
				connecting.Go(func() {
					random := rand.New(rand.NewPCG(uint64(worker), 1))
					var mine []*racer
					for i := worker; i < connects; i += 16 {
						r := rigs[random.IntN(2)]
						ws, response, err := wsraw.Handshake(r.dialTCP(0), "/?"+query(fmt.Sprint("user ", i%users)), nil)
						if err != nil {
							t.Errorf("connect: %v: %+v, Health: %v", err, response, r.Health())
							return
						}
						mine = append(mine, race(ws))
						if random.IntN(2) == 0 { // some go by themselves, of all ages
							gone := mine[random.IntN(len(mine))]
							if random.IntN(2) == 0 {
								gone.ws.Close()
							} else {
								gone.ws.WriteFrames(wsraw.CloseFrame(1000, ""))
							}
						}
					}
				})
			}
			connecting.Wait()
			// Five more of each user, by turns on both nodes: the newest three stay.
			last := make(map[string][]*racer)
			for i := range 5 {
				for u := range users {
					user := fmt.Sprint("user ", u)
					last[user] = append(last[user], race(rigs[i%2].connect(query(user))))
				}
			}
			for user, clients := range last {
				for _, c := range clients[:2] {
					<-c.done
					if c.code != StatusReplaced {
						t.Errorf("an older client of %s saw %d", user, c.code)
					}
				}
			}
			settled(t, rigs)
			for user, clients := range last {
				sessions, err := rigs[0].Sessions(t.Context(), User(user))
				if err != nil || len(sessions) != limit {
					t.Errorf("%s has %d sessions, %v", user, len(sessions), err)
				}
				for i, c := range clients[2:] {
					if !c.alive() {
						t.Errorf("one of the newest of %s was closed: %d of %d", user, i, len(clients))
					}
				}
			}
			agree(t, rigs)
			for _, clients := range last {
				for _, c := range clients {
					c.ws.Close()
				}
			}
			for _, r := range rigs {
				r.clean()
			}
			for _, r := range rigs {
				ctx, cancel := context.WithTimeout(context.Background(), patience)
				defer cancel()
				if err := r.Shutdown(ctx); err != nil {
					t.Error(err)
				}
			}
			requireNoGoroutines(t)
		})
	}
}

// settled waits until the last handshake and the last close are over, and all
// that they asked of the Registry is written.
func settled(t *testing.T, rigs []*rig) {
	t.Helper()
	for _, r := range rigs {
		r.await("an end of all handshakes", func() bool {
			conns, _, _ := r.index.size()
			return conns == len(slices.Collect(r.Conns()))
		})
	}
	for _, r := range rigs {
		r.await("an end of all closes", func() bool { return len(r.closing.list()) == 0 })
		if err := r.presence.barrier(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// agree checks, entry by entry, that the Registry has of each node what the
// node's index has.
func agree(t *testing.T, rigs []*rig) {
	t.Helper()
	for _, r := range rigs {
		want := make(map[string][]string)
		for c := range r.Conns() {
			want[c.ID()] = slices.DeleteFunc(r.index.topicsOf(c), func(s string) bool { return s == topicEveryone })
		}
		got := make(map[string][]string)
		for _, e := range entriesOf(t, r.Hub) {
			got[e.Session.ID] = append(got[e.Session.ID], append(slices.Clone(e.Topics), e.UserTopic)...)
		}
		for _, m := range []map[string][]string{want, got} {
			for _, topics := range m {
				slices.Sort(topics)
			}
		}
		if !maps.EqualFunc(got, want, slices.Equal) {
			t.Errorf("the Registry has %d entries of %s: %v\nits index has %d: %v", len(got), r.NodeID(), got, len(want), want)
		}
	}
}

func TestOnePerPlatformAndDevice(t *testing.T) {
	for name, test := range map[string]struct {
		admit AdmitFunc
		stay  int
	}{
		"platform": {OnePerPlatform(), 2}, // web and ios
		"device":   {OnePerDevice(), 4},   // a, b, and two without
	} {
		t.Run(name, func(t *testing.T) {
			rigs := newPair(t, false, Config{Admit: test.admit, CloseTimeout: patience})
			var clients []*racer
			for i, q := range []string{"device=a&platform=web", "device=b&platform=ios", "platform=web", "platform=web", "device=a&platform=ios", "device=b&platform=web"} {
				clients = append(clients, race(rigs[i%2].connect("user=u&"+q)))
			}
			stranger := race(rigs[0].connect("user=v&device=a&platform=web"))
			settled(t, rigs)
			sessions, err := rigs[0].Sessions(t.Context(), User("u"))
			if err != nil || len(sessions) != test.stay {
				t.Errorf("%d stay, want %d: %v, %v", len(sessions), test.stay, sessions, err)
			}
			if !stranger.alive() || !clients[4].alive() || !clients[5].alive() {
				t.Error("the newest, or a stranger, was closed")
			}
			agree(t, rigs)
			for _, c := range append(clients, stranger) {
				c.ws.Close()
			}
			for _, r := range rigs {
				r.clean()
			}
		})
	}
}

// refusedWith connects to a Hub that refuses, and checks the status.
func (r *rig) refusedWith(status int, query string) {
	r.t.Helper()
	response := r.refused(query, nil)
	if response.StatusCode != status {
		r.t.Errorf("status %s, want %d", response.Status, status)
	}
	retry := response.Header.Get("Retry-After") != ""
	if want := status == http.StatusServiceUnavailable || status == http.StatusTooManyRequests; retry != want {
		r.t.Errorf("status %d: Retry-After is %q", status, response.Header.Get("Retry-After"))
	}
	if retry != response.Close {
		r.t.Errorf("status %d: the connection is kept: %v", status, !response.Close)
	}
}

func TestLimitsOnConnections(t *testing.T) {
	r := newRig(t, Config{MaxConns: 3, MaxConnsPerUser: 2})
	a := r.connect("user=a")
	b := r.connect("user=a")
	r.refusedWith(http.StatusTooManyRequests, "user=a")
	c := r.connect("user=b")
	r.refusedWith(http.StatusServiceUnavailable, "user=c")
	for _, ws := range []*wsraw.Conn{a, b, c} {
		ws.Close()
	}
	r.ended(3)
	r.clean()
	r.connect("user=a").Close()
	r.ended(4)
	if n := r.Stats().Rejected; n != 2 {
		t.Errorf("Rejected is %d", n)
	}
}

func TestSendLimits(t *testing.T) {
	h := newHub(t, Config{MaxSendSize: 1000, QueueBytes: 2000})
	for name, m := range map[string]Message{
		"too big":   Binary(make([]byte, 1001)),
		"not UTF-8": Text("\xff"),
		"not JSON":  JSON(func() {}),
	} {
		if err := h.Send(t.Context(), Everyone(), m); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := h.Send(t.Context(), Everyone(), Binary(make([]byte, 1000))); err != nil {
		t.Error(err)
	}
	if err := h.Send(t.Context(), Target{}, Text("")); !errors.Is(err, ErrInvalid) {
		t.Errorf("zero Target: %v", err)
	}
}
