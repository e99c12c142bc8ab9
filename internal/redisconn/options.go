// Package redisconn is what herald's Bus and Registry on Redis share: their
// options, how topics are spread over a Cluster, how a connection is made, what
// Redis says on it, and which master the Sentinels name.
package redisconn

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald/internal/errs"
)

// Options are herald.RedisOptions.
type Options struct {
	Prefix        string
	ProbeInterval time.Duration
	ProbeTimeout  time.Duration
}

// Off is the interval that means never. WithDefaults puts it in place of a negative
// one.
const Off = time.Duration(math.MaxInt64)

// WithDefaults returns a copy with every field set.
func (o Options) WithDefaults() (Options, error) {
	o.Prefix = cmp.Or(o.Prefix, "herald")
	o.ProbeInterval = cmp.Or(o.ProbeInterval, time.Second)
	o.ProbeTimeout = cmp.Or(o.ProbeTimeout, 5*time.Second)
	if o.ProbeInterval < 0 {
		o.ProbeInterval = Off
	}
	var faults []error
	if !ValidPrefix(o.Prefix) {
		faults = append(faults, fmt.Errorf("%w: RedisOptions.Prefix: %q: must contain none of %s", errs.Invalid, o.Prefix, NotInPrefix))
	}
	if o.ProbeInterval < time.Millisecond {
		faults = append(faults, fmt.Errorf("%w: RedisOptions.ProbeInterval: %v: must be at least 1ms, or negative for no proofs", errs.Invalid, o.ProbeInterval))
	}
	if o.ProbeTimeout < time.Millisecond {
		faults = append(faults, fmt.Errorf("%w: RedisOptions.ProbeTimeout: %v: must be at least 1ms", errs.Invalid, o.ProbeTimeout))
	}
	return o, errors.Join(faults...)
}

// NotInPrefix has the characters that a prefix must not contain. ":{" follows the
// prefix in all keys and channels. So none of them begins like one of another prefix,
// and a pattern of an ACL that names a prefix matches no other.
const NotInPrefix = `{}*?[]\`

// ValidPrefix reports whether prefix contains none of NotInPrefix.
func ValidPrefix(prefix string) bool { return !strings.ContainsAny(prefix, NotInPrefix) }

// ClientOf returns rdb as a client of one Redis, or of a Cluster; the other one is
// nil.
func ClientOf(rdb redis.UniversalClient) (*redis.Client, *redis.ClusterClient, error) {
	switch client := rdb.(type) {
	case *redis.Client:
		if client != nil {
			return client, nil, nil
		}
	case *redis.ClusterClient:
		if client != nil {
			return nil, client, nil
		}
	case *redis.Ring:
		return nil, nil, fmt.Errorf("%w: Redis: a %T: a Ring has no order, and no server of its own for a topic once one fails; use a *redis.Client or a *redis.ClusterClient", errs.Invalid, rdb)
	default:
		if client != nil {
			return nil, nil, fmt.Errorf("%w: Redis: a %T: must be a *redis.Client, from NewClient or NewFailoverClient, or a *redis.ClusterClient, from NewClusterClient", errs.Invalid, rdb)
		}
	}
	return nil, nil, fmt.Errorf("%w: Redis: a nil %T", errs.Invalid, rdb)
}
