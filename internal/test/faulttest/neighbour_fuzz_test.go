package faulttest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/test/redistest"
)

// FuzzNeighbour plants data, as the input says, under the prefix of three nodes
// with users on them. Meanwhile all users get in. Afterwards everything is right
// again: each user who has connected is online, and a Disconnect disconnects.
func FuzzNeighbour(f *testing.F) {
	random := rand.New(rand.NewPCG(3, 4))
	for range 12 {
		seed := make([]byte, 400)
		for i := range seed {
			seed[i] = byte(random.Uint32())
		}
		f.Add(seed)
	}
	server := redistest.Start(f)
	hood := &neighbourhood{rdb: server.Client(), nodes: startNodes(f, single(server), 3, herald.Config{Lease: 3 * time.Second})}
	f.Fuzz(func(t *testing.T, input []byte) { hood.try(t, &script{input: input}) })
}

// A neighbourhood is a set of nodes, and a client of their Redis.
type neighbourhood struct {
	rdb   *redis.Client
	nodes []*node
	tries int

	spoilt bool // the last value planted at the key gone has the wrong type
}

func (h *neighbourhood) try(t *testing.T, s *script) {
	h.tries++
	users := names(fmt.Sprintf("u%d-", h.tries), 12)
	before := h.unreadable()
	for i, user := range users[:6] {
		h.enter(t, i, user)
	}
	var entering sync.WaitGroup
	entering.Go(func() {
		for i, user := range users[6:] {
			h.enter(t, i, user)
		}
	})
	h.spoilt = false
	for n := 0; n < 20 && len(s.input) > 0; n++ {
		h.plant(t.Context(), s, users)
	}
	entering.Wait()
	for _, n := range h.nodes {
		await(t, "Health", n.Health)
		await(t, "all online", func() error { return n.allOnline(true, users...) })
	}
	if h.spoilt { // all nodes look at this key all the time
		await(t, "a count of what cannot be read", func() error {
			if h.unreadable() == before {
				return errors.New("nothing was counted")
			}
			return nil
		})
	}
	h.part(t, users)
	h.clean(t)
}

// enter connects a user, trying until it succeeds.
func (h *neighbourhood) enter(t *testing.T, i int, user string) {
	await(t, user+" gets in", func() error {
		_, err := h.nodes[i%len(h.nodes)].dial(user, "room")
		return err
	})
}

// part disconnects all users. If something was planted for a user, Disconnect may
// say that the user is not gone, but must not return nil while the user stays.
func (h *neighbourhood) part(t *testing.T, users []string) {
	fresh := fmt.Sprint("fresh", h.tries)
	h.enter(t, h.tries, fresh)
	asker := h.nodes[(h.tries+1)%len(h.nodes)]
	for _, user := range append(users, fresh) {
		await(t, "a Disconnect of "+user, func() error {
			err := asker.Disconnect(context.Background(), herald.User(user), 4000, "bye")
			has := 0
			for _, n := range h.nodes {
				has += n.has(user)
			}
			if err == nil && has > 0 {
				t.Errorf("Disconnect(%s): nil, and %d connections live", user, has)
			}
			if _, partial := errors.AsType[*herald.PartialError](err); partial && user != fresh && has == 0 {
				return nil // the Registry lists a session of the user on a node that does not exist
			}
			return err
		})
	}
}

// unreadable returns the sum of the nodes' counts of unreadable data.
func (h *neighbourhood) unreadable() (n uint64) {
	for _, node := range h.nodes {
		n += node.Stats().Unreadable
	}
	return n
}

// clean removes planted data that would otherwise last.
func (h *neighbourhood) clean(t *testing.T) {
	ctx := context.Background()
	ids, _ := h.rdb.HKeys(ctx, "herald:{0}:nodes").Result()
	for _, id := range ids {
		if !slices.ContainsFunc(h.nodes, func(n *node) bool { return n.NodeID() == id }) {
			h.rdb.HDel(ctx, "herald:{0}:nodes", id)
		}
	}
	for _, key := range keys(t, h.rdb, "herald:{0}:t:*") {
		h.rdb.Del(ctx, key)
	}
	h.rdb.Del(ctx, "herald:{0}:dying")
	for _, n := range h.nodes {
		n.closeClients()
	}
}

// A script is a sequence of bytes that choose what is planted.
type script struct{ input []byte }

// next returns a number below n.
func (s *script) next(n int) int {
	if len(s.input) == 0 {
		return 0
	}
	b := s.input[0]
	s.input = s.input[1:]
	return int(b) % n
}

func (s *script) of(choices ...string) string { return choices[s.next(len(choices))] }

// number returns a number, or sometimes an odd value instead of it.
func (s *script) number(sane string) string {
	return s.of(sane, sane, sane, "", "abc", "nan", "-inf", "0x10", "1e400", "-1", "0", " 7 ", "9007199254740992", "9223372036854775807", "-9223372036854775808", strings.Repeat("9", 400))
}

// text returns any bytes.
func (s *script) text() string {
	switch n := s.next(16); n {
	case 15:
		return strings.Repeat("x", 1<<20)
	default:
		n = min(n, len(s.input))
		text := string(s.input[:n])
		s.input = s.input[n:]
		return text
	}
}

// plant plants one thing.
func (h *neighbourhood) plant(ctx context.Context, s *script, users []string) {
	now := fmt.Sprint(time.Now().UnixMicro())
	node := h.nodes[s.next(len(h.nodes))]
	user := s.of(users...)
	id := s.of(node.NodeID(), node.NodeID(), "ghost", s.text())
	generation := fmt.Sprint(s.next(9))
	if records, err := h.rdb.HGetAll(ctx, "herald:{0}:nodes").Result(); err == nil {
		if fields := strings.Fields(records[node.NodeID()]); len(fields) > 1 && s.next(2) == 0 {
			generation = fields[1]
		}
	}
	record := strings.Join([]string{s.number("1"), s.number(generation), s.number(now), s.number("1000000"), s.number("3"), s.number("1")}, " ")
	value := fmt.Sprintf("%s %s %s %s %d:%s%d:%s0:0:0:0:", s.number("1"), s.number(generation), s.number(now), s.number("0"), len(id), id, len(user), user)
	conn := fmt.Sprint(id, ".", s.next(40))
	name := s.of("nodes", "dying", "gone", "clock", "generation", "t:u"+user, "t:groom", "i:"+generation+":"+id, "probe:h")
	key := "herald:{0}:" + name
	field := s.of(id, conn, generation+":"+id, s.text())
	content := s.of(record, value, s.number(now), s.text(), "u"+fmt.Sprintf("%d:%s%d:u%s", len(conn), conn, len(user)+1, user))
	action := s.of("hset", "hset", "set", "set", "hdel", "del", "sadd", "zadd", "rpush", "expire", "wait", "many")
	if strings.Contains("set rpush sadd", action) { // in place of the value that is there
		h.rdb.Del(ctx, key)
	}
	switch action {
	case "hset":
		h.rdb.HSet(ctx, key, field, content)
	case "set":
		h.rdb.Set(ctx, key, content, 0)
	case "hdel":
		h.rdb.HDel(ctx, key, field)
	case "del":
		h.rdb.Del(ctx, key)
	case "sadd":
		h.rdb.SAdd(ctx, key, content)
	case "zadd":
		h.rdb.ZAdd(ctx, key, redis.Z{Score: float64(s.next(100)) * 1e15, Member: field})
	case "rpush":
		h.rdb.RPush(ctx, key, field, content)
	case "expire":
		h.rdb.PExpire(ctx, key, time.Millisecond)
	case "wait":
		time.Sleep(time.Duration(s.next(200)) * time.Millisecond) // so that the next comes at a random moment
	case "many":
		fields := make([]string, 0, 10_000)
		for i := range cap(fields) / 2 {
			fields = append(fields, fmt.Sprint(field[:min(len(field), 32)], i), content[:min(len(content), 64)])
		}
		h.rdb.HSet(ctx, key, fields)
	}
	if name == "gone" && slices.Contains([]string{"set", "rpush", "sadd", "del", "expire"}, action) {
		h.spoilt = action != "del" && action != "expire"
	}
}
