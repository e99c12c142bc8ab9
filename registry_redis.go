package herald

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald/internal/netstring"
	"github.com/heraldgo/herald/internal/places"
	"github.com/heraldgo/herald/internal/redisregistry"
)

// A RedisRegistry keeps the Registry in hashes of Redis, from version 6.2 on:
// of a single server, of one that Sentinel watches, or of a Cluster. It needs
// no module. Keys of topics expire after a day without a living node that has
// entries in them, so that nothing stays for ever, whatever was lost.
//
// It does not trust what it reads back. A value that is not herald's is skipped,
// as if it were not there, and no error says so. While such a value lies in a
// user's hash, that user is not reported offline, nor online again. All keys that
// begin with the prefix and ":{" are herald's own; one of another type is deleted.
// Stats.Unreadable counts both. Nor does it trust the server. An answer that is no
// RESP, or is nested more than 16 times, is ErrRegistryDown. So is one of more
// than 512 MiB or a million sessions, together with the others of up to 500
// topics that are asked for at once.
//
// # On a Cluster
//
// The topics are spread by their hash over sixteen shards, each in a slot of
// its own, so that any number of masters up to sixteen shares the work. Each
// shard is a whole Registry, with the leases of all nodes and the entries under
// its topics. So what one call does in several shards is several steps:
//
//   - Add places an Entry in the shard of its UserTopic, or of its first topic,
//     and then in the others, with the same Since. If Since is set, it does so in
//     all at the same time. A reader may meanwhile see the Session under the user
//     and not yet under a group. If a later shard says that the lease is lost, so
//     does Add, although the first has added. Nobody sees that for long, because
//     the node then takes a new lease, which every shard puts before the old one.
//   - KeepAlive takes a lease in the first shard, and then in the others. It
//     renews in all at the same time. If one shard has forgotten the lease it is
//     lost for all, so that a master that came back empty gets its entries again.
//     If a shard does not answer the error is ErrRegistryDown, and the others are
//     renewed.
//   - An entry is believed while its own shard has the lease and any shard has
//     seen it renewed. In the same way a node is Alive, unless a shard is sweeping
//     it. It is listed until the last shard has forgotten it. Its Renewed is that
//     of the first shard.
//   - Sweep does nothing while any shard believes the lease. Then one shard
//     decides, in one step, and all others follow.
//
// Nodes, KeepAlive, Offline, Sweep and Release ask all shards. While one shard has
// no master they return ErrRegistryDown.
//
// Each shard goes by the time of its own master. Nodes returns the latest of
// these times, so that every Session that is there has a Since before it. So if
// the clocks differ, Hub.Disconnect may close a connection that came after the
// call, by no more than the difference. Let masters agree within a second.
//
// While a slot is moved to another master key by key, its shard goes on being
// read, and leases are renewed. Calls that add or remove wait for the end of the
// move, as long as their contexts let them.
type RedisRegistry struct{ redis *redisregistry.Registry }

// NewRedisRegistry returns a Registry in the Redis of rdb, which is a
// *redis.Client, from NewClient or NewFailoverClient, or a
// *redis.ClusterClient: an error names any other type. On a single server it
// lies in rdb's database. The Registry opens connections of its own, with
// rdb's options, and leaves rdb as it is. With Sentinel, rdb must stay open as
// long as the Registry.
//
// It asks each master once, for at most the ReadTimeout of rdb, whether it may
// do all that it will need; the error names what is denied. Errors wrap
// ErrRegistryDown if Redis could not be reached or refuses to serve, in its own
// words. So do the errors of the methods, also if a command is denied later.
//
// Behind Sentinels it listens to what each of them publishes on
// __sentinel__:hello. If no majority of those that it has heard names its server
// for longer than ProbeTimeout (at least 5 s), that server may have been replaced,
// and all methods return ErrRegistryDown.
func NewRedisRegistry(rdb redis.UniversalClient, opts *RedisOptions) (*RedisRegistry, error) {
	r, err := redisregistry.New(rdb, opts.conn())
	if err != nil {
		return nil, err
	}
	return &RedisRegistry{r}, nil
}

// Close ends the calls that are under way, and waits for them. They return ErrClosed, as
// later ones do. Close may be called twice.
func (r *RedisRegistry) Close() error { return r.redis.Close() }

// Add implements [Registry.Add]: one script for each shard of an Entry, in
// pipelines. The Node of a Session is the lease's.
func (r *RedisRegistry) Add(ctx context.Context, lease Lease, entries ...Entry) ([]Added, error) {
	answers, err := r.redis.Add(ctx, redisregistry.Lease(lease), encodeEntries(entries)...)
	if err != nil {
		return nil, err
	}
	added := make([]Added, len(answers))
	for i, a := range answers {
		older := r.decodeSessions(entries[i].UserTopic, a.Older)
		strange := len(a.Older) - len(older)
		added[i] = Added{Since: a.Since, Older: older, OlderTotal: a.OlderTotal - strange, Online: a.Online}
	}
	return added, nil
}

// Remove implements [Registry.Remove].
func (r *RedisRegistry) Remove(ctx context.Context, lease Lease, entries ...Entry) error {
	return r.redis.Remove(ctx, redisregistry.Lease(lease), encodeEntries(entries)...)
}

// Sessions implements [Registry.Sessions].
func (r *RedisRegistry) Sessions(ctx context.Context, lease Lease, topics ...string) ([][]Session, error) {
	found, err := r.redis.Sessions(ctx, redisregistry.Lease(lease), topics...)
	if err != nil {
		return nil, err
	}
	all := make([][]Session, len(found))
	for i, sessions := range found {
		all[i] = r.decodeSessions(topics[i], sessions)
	}
	return all, nil
}

// Online implements [Registry.Online].
func (r *RedisRegistry) Online(ctx context.Context, lease Lease, topics ...string) ([]bool, error) {
	return r.redis.Online(ctx, redisregistry.Lease(lease), topics...)
}

// KeepAlive implements [Registry.KeepAlive].
func (r *RedisRegistry) KeepAlive(ctx context.Context, node Node, ttl time.Duration) (int64, error) {
	return r.redis.KeepAlive(ctx, redisregistry.Node(node), ttl)
}

// Release implements [Registry.Release].
func (r *RedisRegistry) Release(ctx context.Context, lease Lease) error {
	return r.redis.Release(ctx, redisregistry.Lease(lease))
}

// Nodes implements [Registry.Nodes]. The time is the latest of all masters'.
func (r *RedisRegistry) Nodes(ctx context.Context) ([]Node, time.Time, error) {
	found, now, err := r.redis.Nodes(ctx)
	if err != nil {
		return nil, time.Time{}, err
	}
	nodes := make([]Node, len(found))
	for i, n := range found {
		nodes[i] = Node(n)
	}
	slices.SortFunc(nodes, compareNodes)
	return nodes, now, nil
}

// Sweep implements [Registry.Sweep]. It goes in steps, each a round trip, so
// its context should allow for the entries of a whole node.
func (r *RedisRegistry) Sweep(ctx context.Context, lease Lease) error {
	return r.redis.Sweep(ctx, redisregistry.Lease(lease))
}

// Watch implements [WatchRegistry.Watch]: one script for each topic.
func (r *RedisRegistry) Watch(ctx context.Context, lease Lease, ttl time.Duration, topics ...string) ([]Watched, error) {
	found, err := r.redis.Watch(ctx, redisregistry.Lease(lease), ttl, topics...)
	if err != nil {
		return nil, err
	}
	all := make([]Watched, len(found))
	for i, w := range found {
		all[i] = Watched{Number: w.Number, Sessions: r.decodeSessions(topics[i], w.Sessions)}
	}
	return all, nil
}

// Changes implements [WatchRegistry.Changes]. It keeps 16,384 of them.
func (r *RedisRegistry) Changes() []Change {
	made := r.redis.Changes()
	all := make([]Change, len(made))
	for i, c := range made {
		all[i] = Change{Topic: c.Topic, Number: c.Number, Session: Session{ID: c.Session.ID}, Left: c.Left}
		if s, ok := decodeSession(c.Session); ok && !c.Left {
			all[i].Session = s
		}
	}
	return all
}

// Offline implements [Registry.Offline], at most 1,000 users of a shard a call.
// If one shard fails and another has users due, it returns these.
func (r *RedisRegistry) Offline(ctx context.Context, delay time.Duration) ([]string, error) {
	return r.redis.Offline(ctx, delay)
}

// Check implements [Registry.Check].
func (r *RedisRegistry) Check(ctx context.Context, lease Lease, entries ...Entry) ([]Entry, error) {
	all := make([][]places.Place, len(entries))
	for i, e := range entries {
		all[i] = e.places()
	}
	lost, err := r.redis.Check(ctx, redisregistry.Lease(lease), all)
	if err != nil {
		return nil, err
	}
	return lostEntries(entries, lost), nil
}

// Entries implements [Registry.Entries].
func (r *RedisRegistry) Entries(ctx context.Context, lease Lease, cursor string) ([]Entry, string, error) {
	placed, next, err := r.redis.Entries(ctx, redisregistry.Lease(lease), cursor)
	if err != nil {
		return nil, "", err
	}
	var at []places.Place
	var sessions []Session // at each of these
	for _, p := range placed {
		if s, ok := decodeSession(p.Session); ok {
			at, sessions = append(at, p.Place), append(sessions, s)
		}
	}
	return entriesAt(at, func(i int) Session { return sessions[i] }), next, nil
}

// encodeEntries returns the entries as the Registry in Redis takes them.
func encodeEntries(entries []Entry) []redisregistry.Entry {
	encoded := make([]redisregistry.Entry, len(entries))
	for i, e := range entries {
		encoded[i] = redisregistry.Entry{Session: encodeSession(e.Session), Places: e.places(), Older: e.Older}
	}
	return encoded
}

// decodeSessions returns what lies under a topic, oldest first. What cannot be
// understood is passed over, and counted.
func (r *RedisRegistry) decodeSessions(topic string, encoded []redisregistry.Session) []Session {
	var sessions []Session
	for _, e := range encoded {
		if s, ok := decodeSession(e); ok {
			sessions = append(sessions, s)
		} else {
			r.redis.NoteStray(topic)
		}
	}
	slices.SortFunc(sessions, compareSessions)
	return sessions
}

// sessionsOf returns the sessions, oldest first.
func sessionsOf(encoded []redisregistry.Session) (sessions []Session) {
	for _, e := range encoded {
		if s, ok := decodeSession(e); ok {
			sessions = append(sessions, s)
		}
	}
	slices.SortFunc(sessions, compareSessions)
	return sessions
}

// encodeSession puts what the Registry in Redis need not know of a Session into
// its body, which is these netstrings:
//
//	body    <device><platform><remote address><meta>
//	meta    {<key><value>}
//
// A later version of herald may append fields to a body, which this one skips.
func encodeSession(s Session) redisregistry.Session {
	const usual = 256 // bytes at most, which are put together on the stack
	b, meta := make([]byte, 0, usual), make([]byte, 0, usual)
	for _, field := range []string{s.Device, s.Platform, s.RemoteAddr} {
		b = netstring.Append(b, field)
	}
	for _, key := range slices.Sorted(maps.Keys(s.Meta)) {
		meta = netstring.Append(netstring.Append(meta, key), s.Meta[key])
	}
	body := string(netstring.Append(b, string(meta)))
	return redisregistry.Session{ID: s.ID, User: s.User, Node: s.Node, Since: s.Since, Body: body}
}

// decodeSession is the opposite of encodeSession. It returns false if the body is not
// herald's.
func decodeSession(e redisregistry.Session) (s Session, ok bool) {
	s = Session{ID: e.ID, User: e.User, Node: e.Node, Since: e.Since}
	rest, meta := e.Body, ""
	for _, field := range []*string{&s.Device, &s.Platform, &s.RemoteAddr, &meta} {
		if *field, rest, ok = netstring.Cut(rest); !ok {
			return Session{}, false
		}
	}
	for meta != "" {
		var key, value string
		if key, meta, ok = netstring.Cut(meta); !ok {
			return Session{}, false
		}
		if value, meta, ok = netstring.Cut(meta); !ok {
			return Session{}, false
		}
		if s.Meta == nil {
			s.Meta = make(map[string]string)
		}
		s.Meta[key] = value
	}
	return s, true
}

// unreadable returns how often a Registry has met what is not herald's.
func unreadable(reg Registry) uint64 {
	if r, ok := reg.(*RedisRegistry); ok {
		n, _ := r.redis.Unreadable()
		return n
	}
	return 0
}
