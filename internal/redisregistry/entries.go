package redisregistry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald/internal/errs"
	"github.com/heraldgo/herald/internal/places"
)

// Add implements herald.Registry.Add: one script for each shard of an Entry, in
// pipelines. The Node of a Session is the lease's.
func (r *Registry) Add(ctx context.Context, lease Lease, entries ...Entry) ([]Added, error) {
	plan := r.planAdd(lease, entries)
	return call(ctx, r, "add", func(store shardStore) ([]Added, error) {
		replies, err := runScript(ctx, store, addScript, plan.now)
		r.made.noteAdded(plan.now, replies)
		if err != nil {
			return nil, err
		}
		added := make([]Added, len(entries))
		candidates := make([]olderSessions, len(entries))
		for i, reply := range replies {
			if errors.Is(reply.Err(), redis.Nil) {
				return nil, errs.LeaseLost
			}
			if i >= len(entries) { // it is a further shard's
				continue
			}
			if added[i], candidates[i], err = r.decodeAdded(reply, plan.now[i]); err != nil {
				return nil, err
			}
		}
		if err := r.keepLive(ctx, store, added, candidates); err != nil {
			return nil, err
		}
		for i, call := range plan.then {
			call.args[addSince] = added[plan.of[i]].Since.UnixMicro()
		}
		replies, err = runScript(ctx, store, addScript, plan.then)
		r.made.noteAdded(plan.then, replies)
		if err != nil {
			return nil, err
		}
		for _, reply := range replies {
			if errors.Is(reply.Err(), redis.Nil) {
				return nil, errs.LeaseLost
			}
		}
		return added, nil
	})
}

// An addPlan is what Add runs. now begins with one call for each Entry, in the
// Entry's first shard; its answer is that of the Entry.
type addPlan struct {
	now  []scriptCall
	then []scriptCall // in further shards, with the Since that the first gave
	of   []int        // by index of then: the Entry
}

// Indexes of arguments of add.lua.
const (
	addID      = 2
	addSince   = 3
	addMembers = 9 // the first of them
)

// keyLasts is how long the keys of topics and indexes last if Check does not touch
// them. It is longer than any outage after which herald still has to tell that users
// have gone.
const keyLasts = 24 * time.Hour

func (r *Registry) planAdd(lease Lease, entries []Entry) addPlan {
	plan := addPlan{now: make([]scriptCall, len(entries))}
	heads := make([][]string, len(r.shards)) // the keys that all calls in a shard begin with
	node, generation, lasts := any(lease.Node), any(lease.Generation), any(keyLasts.Milliseconds())
	for i, e := range entries {
		s := e.Session
		s.Node = lease.Node
		since := ""
		if !s.Since.IsZero() {
			since = strconv.FormatInt(s.Since.UnixMicro(), 10)
		}
		body := bodyOf(s)
		for n, part := range r.parts(e) {
			shard := r.shards[part.shard]
			if heads[part.shard] == nil {
				heads[part.shard] = []string{shard.nodesKey(), shard.dyingKey(), shard.indexKey(lease), shard.goneKey(), shard.clockKey()}
			}
			head := heads[part.shard]
			call := scriptCall{
				shard: part.shard,
				keys:  append(make([]string, 0, len(head)+len(part.places)), head...),
				args:  append(make([]any, 0, addMembers+len(part.places)), node, generation, s.ID, since, s.User, body, part.isUser(), max(0, e.Older), lasts),

				session: s, places: part.places,
			}
			for _, p := range part.places {
				call.keys = append(call.keys, shard.topicKey(p.Topic))
				call.args = append(call.args, memberOf(p))
			}
			switch {
			case n == 0:
				plan.now[i] = call
			case since != "":
				plan.now = append(plan.now, call)
			default:
				plan.then = append(plan.then, call)
				plan.of = append(plan.of, i)
			}
		}
	}
	return plan
}

// A part of an Entry is what lies in one shard.
type part struct {
	shard  int
	places []places.Place
}

// isUser reports whether its first topic is the user's.
func (p part) isUser() bool { return len(p.places) > 0 && p.places[0].User }

// parts returns the parts of an Entry. The one with the user's topic is first, and
// begins with it. An Entry without topics has one part, which is empty.
func (r *Registry) parts(e Entry) []part {
	all := e.Places
	if len(all) == 0 {
		return []part{{}}
	}
	if len(r.shards) == 1 {
		return []part{{places: all}}
	}
	var parts []part
	for _, p := range all {
		shard := r.shardOf(p.Topic)
		i := slices.IndexFunc(parts, func(p part) bool { return p.shard == shard })
		if i < 0 {
			i = len(parts)
			parts = append(parts, part{shard: shard})
		}
		parts[i].places = append(parts[i].places, p)
	}
	return parts
}

// decodeAdded decodes the answer of add.lua to a call. Some of the older sessions may
// be of dead nodes.
func (r *Registry) decodeAdded(reply *redis.Cmd, call scriptCall) (Added, olderSessions, error) {
	older := olderSessions{shard: call.shard}
	parts, err := reply.Slice()
	if err != nil {
		return Added{}, older, err
	}
	if len(parts) != 6 {
		return Added{}, older, fmt.Errorf("answer of %d parts", len(parts))
	}
	text, _ := parts[0].(string)
	since, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return Added{}, older, err
	}
	a := Added{Since: time.UnixMicro(since), Online: parts[1] == "1"}
	odd, _ := parts[4].(int64)
	r.strays.note(int(odd), r.shards[call.shard].clockKey())
	r.latest[call.shard].note(since)
	total, _ := parts[3].(int64)
	sessions, _ := parts[2].([]any)
	older.more = int(total) - len(sessions)/2
	for i := 0; i+1 < len(sessions); i += 2 {
		id, _ := sessions[i].(string)
		value, _ := sessions[i+1].(string)
		s, generation, ok := decodeValue(id, value)
		if ok && id != call.args[addID] && s.Since.Before(a.Since) {
			older.sessions = append(older.sessions, heldSession{s, generation})
		}
	}
	return a, older, nil
}

// olderSessions are candidates for a user's older Sessions.
type olderSessions struct {
	shard    int
	sessions []heldSession
	more     int // older ones beside these
}

// A heldSession is a Session and the generation of the lease that it lives by.
type heldSession struct {
	Session
	generation int64
}

func (s heldSession) lease() Lease { return Lease{s.Node, s.generation} }

// keepLive makes Older of the candidates that live. It looks at the leases again only
// if it does not know of all of them that they live.
func (r *Registry) keepLive(ctx context.Context, store shardStore, added []Added, candidates []olderSessions) error {
	doubt := slices.ContainsFunc(candidates, func(o olderSessions) bool {
		return slices.ContainsFunc(o.sessions, func(s heldSession) bool { return !r.holds(o.shard, s.lease()) })
	})
	if doubt {
		if _, err := r.look(ctx, store); err != nil {
			return err
		}
	}
	for i, o := range candidates {
		a := &added[i]
		for _, s := range o.sessions {
			if r.holds(o.shard, s.lease()) {
				a.Older = append(a.Older, s.Session)
			}
		}
		a.OlderTotal = len(a.Older) + o.more
	}
	return nil
}

// Remove implements herald.Registry.Remove.
func (r *Registry) Remove(ctx context.Context, lease Lease, entries ...Entry) error {
	var calls []scriptCall
	for _, e := range entries {
		for _, part := range r.parts(e) {
			shard := r.shards[part.shard]
			isUser := part.isUser()
			call := scriptCall{
				shard: part.shard,
				keys:  []string{shard.goneKey(), shard.indexKey(lease)},
				args:  []any{string(shard) + "i:", e.ID, isUser},

				places: part.places,
			}
			for _, p := range part.places {
				call.keys = append(call.keys, shard.topicKey(p.Topic))
				call.args = append(call.args, memberOf(p))
			}
			calls = append(calls, call)
		}
	}
	_, err := call(ctx, r, "remove", func(store shardStore) ([]*redis.Cmd, error) {
		replies, err := runScript(ctx, store, removeScript, calls)
		r.made.noteRemoved(calls, replies)
		return replies, err
	})
	return err
}
