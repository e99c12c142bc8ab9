package redisregistry

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald/internal/errs"
	"github.com/heraldgo/herald/internal/places"
)

// A walkCursor is the position of a walk over entries: the cursor of Entries.
type walkCursor struct {
	shard  int
	scan   uint64 // a cursor of SSCAN; 0 at the beginning of the shard's walk
	server string // the one that gave scan, which means nothing to another
}

func (c walkCursor) String() string {
	return strconv.Itoa(c.shard) + " " + strconv.FormatUint(c.scan, 10) + " " + c.server
}

// parseCursor is the opposite of String. The empty cursor is the beginning.
func parseCursor(s string, shards int) (c walkCursor, ok bool) {
	if s == "" {
		return c, true
	}
	fields := strings.SplitN(s, " ", 3)
	if len(fields) != 3 {
		return c, false
	}
	shard, err := strconv.Atoi(fields[0])
	scan, err2 := strconv.ParseUint(fields[1], 10, 64)
	return walkCursor{shard, scan, fields[2]}, err == nil && err2 == nil && shard >= 0 && shard < shards
}

// entriesPage is roughly how many members of an index a page of Entries has. maxScans
// is how many SSCANs it takes at most: the scan from a cursor that no server gives
// out might never end.
const (
	entriesPage = 200
	maxScans    = 1000
)

// Placed is what lies at a place.
type Placed struct {
	places.Place
	Session Session
}

// A walkPage is a page of Entries. Its next is nil at the end.
type walkPage struct {
	places []places.Place
	placed []Placed
	next   *walkCursor
}

// Entries implements herald.Registry.Entries.
func (r *Registry) Entries(ctx context.Context, lease Lease, cursor string) ([]Placed, string, error) {
	at, ok := parseCursor(cursor, len(r.shards))
	if !ok {
		return nil, "", fmt.Errorf("%w: cursor %q: must be one that Entries returned", errs.Invalid, cursor)
	}
	page, err := call(ctx, r, "entries", func(store shardStore) (walkPage, error) {
		page, err := r.scan(ctx, store, lease, at)
		if err == nil {
			page.placed, err = r.readPlaces(ctx, store, lease, page.places)
		}
		return page, err
	})
	if err != nil || page.next == nil {
		return page.placed, "", err
	}
	return page.placed, page.next.String(), nil
}

// scan walks through the lease's indexes, from shard to shard, until a page is
// full.
func (r *Registry) scan(ctx context.Context, store shardStore, lease Lease, at walkCursor) (page walkPage, err error) {
	for scans := 0; at.shard < len(r.shards) && len(page.places) < entriesPage && scans < maxScans; scans++ {
		pipe := newShardPipe(store)
		scan := pipe.on(at.shard).SScan(ctx, r.shards[at.shard].indexKey(lease), at.scan, "", entriesPage)
		servers, err := pipe.exec(ctx)
		if err != nil {
			return page, err
		}
		server := ""
		if servers != nil {
			server = servers[at.shard]
		}
		if at.scan != 0 && at.server != server {
			at.scan = 0 // the shard has moved: its walk begins anew
			continue
		}
		members, next := scan.Val()
		for _, member := range members {
			p, ok := decodePlace(member)
			if ok {
				page.places = append(page.places, p)
			} else if member != "" {
				r.strays.note(1, r.shards[at.shard].indexKey(lease))
			}
		}
		if at.scan, at.server = next, server; next == 0 {
			at.shard++
		}
	}
	if at.shard < len(r.shards) {
		page.next = &at
	}
	return page, nil
}

// readPlaces returns what the lease has at the places.
func (r *Registry) readPlaces(ctx context.Context, store shardStore, lease Lease, all []places.Place) (placed []Placed, err error) {
	for batch := range slices.Chunk(places.Sort(all), maxBatch) { // SSCAN may repeat one
		values := make([]*redis.StringCmd, len(batch))
		pipe := newShardPipe(store)
		for i, p := range batch {
			s := r.shardOf(p.Topic)
			values[i] = pipe.on(s).HGet(ctx, r.shards[s].topicKey(p.Topic), p.ID)
		}
		if _, err := pipe.exec(ctx); err != nil {
			return nil, err
		}
		for i, p := range batch {
			s, generation, ok := decodeValue(p.ID, values[i].Val())
			if ok && generation == lease.Generation && s.Node == lease.Node {
				placed = append(placed, Placed{p, s})
			}
		}
	}
	return placed, nil
}
