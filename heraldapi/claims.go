package heraldapi

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// keep is how long an outcome is kept after it is known, and how long a claim
	// lasts if its node dies before it knows one.
	keep = 5 * time.Minute

	// claimTimeout bounds each call of Redis.
	claimTimeout = 3 * time.Second

	// maxDeliver is how long a deliver may wait.
	maxDeliver = time.Minute

	maxKey = 255 // bytes of an Idempotency-Key
)

// once carries out a request that has an idempotency key, unless one with this key
// was carried out before:
//
//	free ──claim──▶ claimed ──outcome──▶ answered ──5 min──▶ free
//	                   │ └──nothing was done──▶ free
//	                   └──no outcome in time: its node is gone──▶ "unknown" until 5 min
//
// If the caller hangs up the request goes on: the caller can ask for the outcome.
func (h *Handler) once(q *request, key string, serve func(context.Context, *request) *answer) *answer {
	switch {
	case key == "": // perhaps of a script whose variable is not set
		return invalid("Idempotency-Key", `"": must not be empty; leave the header out to send without a key`)
	case h.claims == nil:
		return invalid("Idempotency-Key", "needs heraldapi.Config.Redis, which is not set")
	case len(key) > maxKey:
		return invalid("Idempotency-Key", fmt.Sprintf("%d bytes: must be at most %d", len(key), maxKey))
	}
	name := h.claims.name(q.caller, key)
	ctx := context.WithoutCancel(q.Context())
	mine := record{Claim: rand.Text(), Request: digest(q)}
	older, age, err := h.claims.claim(ctx, name, mine)
	switch {
	case err != nil:
		return failure(http.StatusServiceUnavailable, "redis_down", "the idempotency key cannot be claimed in Redis: nothing was done")
	case older != nil:
		return h.repeated(older, mine.Request, age)
	}
	// A claim that is left behind, by a panic for example, says "unknown" in time.
	answer := serve(ctx, q)
	h.claims.settle(ctx, name, mine, answer)
	return answer
}

// repeated answers a request whose key was claimed before.
func (h *Handler) repeated(older *record, request string, age time.Duration) *answer {
	switch {
	case older.Request != request:
		return failure(http.StatusUnprocessableEntity, "key_reused", "Idempotency-Key: was used for another request")
	case older.Answer != nil:
		return older.Answer
	case age < h.config.Timeout+maxDeliver+2*claimTimeout:
		return failure(http.StatusConflict, "in_progress", "Idempotency-Key: the request is being carried out: ask again")
	}
	return failure(http.StatusGatewayTimeout, "unknown", "the node that carried out the request has not said what came of it")
}

// digest names a request by what it asks for.
func digest(q *request) string {
	hash := sha256.New()
	fmt.Fprintf(hash, "%s %s\n", q.Method, q.URL.Path)
	hash.Write(q.body)
	return hex.EncodeToString(hash.Sum(nil)[:16])
}

// claims are the idempotency keys in Redis, each with a record as JSON.
type claims struct {
	redis  redis.UniversalClient
	prefix string
}

type record struct {
	Claim   string  `json:"claim"` // its own, so that a SetNX that go-redis repeats finds itself
	Request string  `json:"request"`
	Answer  *answer `json:"answer,omitempty"` // nil until the outcome is known
}

// name returns the key in Redis. A caller's name and key may have any bytes and length.
func (c *claims) name(caller, key string) string {
	hash := sha256.Sum256(fmt.Appendf(nil, "%d %s%s", len(caller), caller, key))
	return c.prefix + hex.EncodeToString(hash[:])
}

// claim makes the name ours, or returns the record of who claimed it, and how long ago
// by Redis' clock. If it returns an error, the name may be ours all the same, until the
// claim's time runs out.
func (c *claims) claim(ctx context.Context, name string, mine record) (older *record, age time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, claimTimeout)
	defer cancel()
	value, err := json.Marshal(mine)
	if err != nil {
		return nil, 0, err
	}
	for range 3 { // the older one may have ended between the two calls
		set, err := c.redis.SetNX(ctx, name, value, keep).Result()
		if set || err != nil {
			return nil, 0, err
		}
		read := c.redis.Pipeline()
		got, left := read.Get(ctx, name), read.PTTL(ctx, name)
		if _, err = read.Exec(ctx); errors.Is(err, redis.Nil) {
			continue
		}
		if err != nil {
			return nil, 0, err
		}
		older = new(record)
		if err := json.Unmarshal([]byte(got.Val()), older); err != nil {
			return nil, 0, fmt.Errorf("record of %s: %w", name, err)
		}
		if older.Claim == mine.Claim {
			return nil, 0, nil
		}
		return older, keep - left.Val(), nil
	}
	return nil, 0, errors.New("the key comes and goes")
}

// settle puts the answer in the place of our claim, or gives the name back if nothing
// was done. If that fails, a request with the same key is told for a while that it is
// being carried out, and then that the outcome is unknown.
func (c *claims) settle(ctx context.Context, name string, mine record, a *answer) {
	ctx, cancel := context.WithTimeout(ctx, claimTimeout)
	defer cancel()
	claim, err := json.Marshal(mine)
	outcome := []byte(nil)
	if err == nil && !a.undone {
		mine.Answer = a
		outcome, err = json.Marshal(mine)
	}
	if err == nil {
		settle.Run(ctx, c.redis, []string{name}, claim, outcome, keep.Milliseconds())
	}
}

// settle leaves the name alone if somebody else has claimed it meanwhile: ours may have
// been lost in a failover, and go-redis may run this twice.
var settle = redis.NewScript(`
local claim = redis.call('GET', KEYS[1])
if claim and claim ~= ARGV[1] then return end
if ARGV[2] == '' then
	redis.call('DEL', KEYS[1])
else
	redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
end`)
