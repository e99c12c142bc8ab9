package redislog

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald/internal/history"
	"github.com/heraldgo/herald/internal/history/packet"
	"github.com/heraldgo/herald/internal/history/store"
)

// A rig is a server, with a record of what its scripts got, answered and published.
type rig struct {
	rdb   *redis.Client
	step  func(time.Duration) // steps the server's clock
	debug bool                // it is a real server, not a miniredis
	calls []scriptCall        // those since forget
	heard *redis.PubSub
}

// A scriptCall is one run of a script.
type scriptCall struct {
	fresh  history.Epoch
	agreed store.Agreement // as it was passed
	named  int64           // the segment that trim.lua was told to remove
	now    int64
	keys   int
	looked int // entries that it looked at while it walked
}

func (c scriptCall) began(end history.Point) bool { return end.Epoch == c.fresh }

func (r *rig) listen(t *testing.T) {
	r.rdb.AddHook(r)
	r.heard = r.rdb.PSubscribe(t.Context(), "*")
	t.Cleanup(func() { r.heard.Close() })
	if _, err := r.heard.Receive(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func (r *rig) forget() { r.calls = nil }

// DialHook, ProcessPipelineHook and ProcessHook implement redis.Hook.
func (r *rig) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) { return next(ctx, network, addr) }
}

func (r *rig) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (r *rig) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		args := cmd.Args()
		if !strings.HasPrefix(cmd.Name(), "eval") || err != nil {
			return err
		}
		first := 3 + args[2].(int) // of ARGV
		call := scriptCall{keys: args[2].(int), fresh: parseEpoch(args[first+2].(string)), named: -1}
		fmt.Sscan(args[first+3].(string), &call.agreed.Version, &call.agreed.Age, &call.agreed.Bytes)
		if parts, ok := cmd.(*redis.Cmd).Val().([]any); ok && len(parts) > 0 {
			call.now = parts[0].(int64)
			if step := len(parts) - 4; step >= common { // look.lua and walk.lua
				call.looked = len(parts[step].([]any))
			}
		}
		if n, ok := args[len(args)-1].(int64); ok && len(args) == first+7 {
			call.named = n
		}
		r.calls = append(r.calls, call)
		return nil
	}
}

func (r *rig) do(t *testing.T, args ...any) any {
	t.Helper()
	v, err := r.rdb.Do(t.Context(), args...).Result()
	if err != nil {
		t.Fatalf("%v: %v", args, err)
	}
	return v
}

func (r *rig) replID(t *testing.T) string {
	t.Helper()
	if !r.debug {
		return "0"
	}
	info, err := r.rdb.Info(t.Context(), "replication").Result()
	if err != nil {
		t.Fatal(err)
	}
	_, id, _ := strings.Cut(info, "master_replid:")
	id, _, _ = strings.Cut(id, "\r")
	return id
}

// hear returns the next packet on a channel.
func (r *rig) hear(t *testing.T, channel string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	m, err := r.heard.ReceiveMessage(ctx)
	if err != nil || m.Channel != channel {
		t.Fatalf("heard %v, %v on %s", m, err, channel)
	}
	return m.Payload
}

// packets returns all packets that were published since the last call.
func (r *rig) packets(t *testing.T) (packets []history.Packet) {
	t.Helper()
	r.do(t, "PUBLISH", "end", "")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		m, err := r.heard.ReceiveMessage(ctx)
		if err != nil {
			t.Fatal(err)
		}
		topic, ok := strings.CutPrefix(m.Channel, "c:")
		if !ok {
			return packets
		}
		p, err := packet.Parse(topic, []byte(m.Payload))
		if err != nil {
			t.Fatal(err)
		}
		p.Body = unplaced(p.Body)
		packets = append(packets, p)
	}
}

// begins is the beginning of a body.
const begins = "\x01\x01\x10\x00"

// unplaced returns the body that a packet was made of.
func unplaced(data []byte) []byte {
	all, n := binary.Uvarint(data[3:])
	place := 2 + int(data[3+n+1])
	return slices.Concat(data[:3], []byte{byte(int(all) - place)}, data[3+n+place:])
}

func (r *rig) keys(t *testing.T) []string {
	t.Helper()
	keys, err := r.rdb.Keys(t.Context(), "*").Result()
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(keys)
	return keys
}

// state returns everything in the log, in the form of the twin's String. It parses
// the layout with code of its own.
func (r *rig) state(t *testing.T, l *Log) string {
	t.Helper()
	var b strings.Builder
	b.WriteString(r.tableText(t, l))
	var segments []uint64
	for _, key := range r.keys(t) {
		if text, ok := strings.CutPrefix(key, "k:s:"); ok {
			n, err := strconv.ParseUint(text, 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			segments = append(segments, n)
		} else if key != "k:t" {
			t.Errorf("there is the key %q", key)
		}
	}
	slices.Sort(segments)
	for _, n := range segments {
		fmt.Fprintf(&b, "segment %d\n", n)
		entries := r.do(t, "XRANGE", l.segment(n), "-", "+").([]any)
		for _, e := range entries {
			id := e.([]any)[0].(string)
			fields := e.([]any)[1].([]any)
			links, ok := parseLinks(fields[1].(string))
			if !ok || len(fields) != 4 || fields[2] != "" || !strings.HasSuffix(id, "-0") {
				t.Errorf("entry %q", e)
			}
			fmt.Fprintf(&b, "entry %s born %s links %v body %q\n", strings.TrimSuffix(id, "-0"), fields[0], links, fields[3])
		}
	}
	return b.String()
}

func (r *rig) tableText(t *testing.T, l *Log) string {
	t.Helper()
	members, err := r.rdb.ZRangeWithScores(t.Context(), "k:t", 0, -1).Result()
	if err != nil {
		t.Fatal(err)
	}
	if len(members) == 0 {
		return "no table\n"
	}
	numbers, lasts, forgot := map[string]int64{"n": -1}, map[string]int64{}, map[string]int64{}
	var epoch, server string
	var agreed []string
	parents := []history.Point{}
	for _, m := range members {
		name := m.Member.(string)
		switch {
		case math.IsInf(m.Score, -1):
			words := strings.Fields(name)
			if words[0] != "\x001" || epoch != "" {
				t.Fatalf("head %q", name)
			}
			epoch, server, agreed = words[1], words[2], words[3:6]
			for _, word := range words[6:] {
				e, at, _ := strings.Cut(word, ":")
				o, _ := strconv.ParseUint(at, 10, 64)
				parents = slices.Insert(parents, 0, history.Point{Epoch: parseEpoch(e), Offset: history.Offset(o)})
			}
		case strings.HasPrefix(name, "\x00i"+server+" ") && m.Score == -0.5: // the twin does not know nodes
		case name[0] == 0 && m.Score < 0:
			numbers[name[1:]] = -1 - int64(m.Score)
		case strings.HasPrefix(name, "\x00f") && m.Score > 0:
			forgot[name[2:]] = int64(m.Score)
		case name[0] != 0 && m.Score > 0:
			lasts[name] = int64(m.Score)
		default:
			t.Fatalf("member %q with the score %v", name, m.Score)
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "epoch %s on %s, parents %x, counter %d, horizon %d\n", epoch, server, parents, numbers["c"], numbers["h"])
	fmt.Fprintf(&b, "agreed %s: %s ms, %s bytes\n", agreed[0], agreed[1], agreed[2])
	ended, size := int64(0), int64(l.config.Limits.Segment)
	for n := numbers["h"] / size; n <= numbers["n"]; n++ {
		name := strconv.FormatInt(n, 10)
		began, bytes := numbers["b"+name], numbers["z"+name]
		if n == numbers["n"] {
			bytes, ended = numbers["z"], ended-numbers["z"]
		}
		ended += bytes
		fmt.Fprintf(&b, "span %d began %d bytes %d\n", n, began, bytes)
		delete(numbers, "b"+name)
		delete(numbers, "z"+name)
	}
	for name := range numbers {
		if len(name) > 1 {
			t.Errorf("the member %q is of no segment", name)
		}
	}
	if ended != numbers["a"] {
		t.Errorf("%d bytes before the last segment, counted %d", ended, numbers["a"])
	}
	for _, topic := range slices.Sorted(maps.Keys(lasts)) {
		if at := lasts[topic]; at > numbers["h"] {
			cut := forgot[topic]
			if cut <= numbers["h"] {
				cut = 0
			}
			fmt.Fprintf(&b, "topic %q at %d, forgotten up to %d\n", topic, at, cut)
			if cut > numbers["f"] {
				t.Errorf("%q is forgotten up to %d, and all are up to %d", topic, cut, numbers["f"])
			}
		}
	}
	return b.String()
}

// stale returns how many topics in the table no longer count.
func (r *rig) stale(t *testing.T) int64 {
	t.Helper()
	horizon, err := r.rdb.ZScore(t.Context(), "k:t", "\x00h").Result()
	if err != nil {
		t.Fatal(err)
	}
	n, err := r.rdb.ZCount(t.Context(), "k:t", "0", strconv.FormatFloat(-1-horizon, 'f', 0, 64)).Result()
	if err != nil {
		t.Fatal(err)
	}
	return n
}
