package redisconn

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// A SlotScripter runs scripts and pipelines on the master of a slot of a Cluster. If
// a node refuses because the slot is migrating, or another node's, it has changed
// nothing. The call is then repeated on the master that is known by that time, until
// ctx is done. Nothing else is repeated. ASK is not followed: subscribers at the old
// master would not hear what is published at the new one. Its methods may be called
// concurrently.
type SlotScripter struct {
	scripts
	cluster *redis.ClusterClient
	key     string // of the slot
}

// NewSlotScripter returns the SlotScripter of a key's slot.
func NewSlotScripter(cluster *redis.ClusterClient, key string) *SlotScripter {
	s := &SlotScripter{cluster: cluster, key: key}
	s.on = s.onMaster
	return s
}

// Renew has the masters looked up anew.
func (s *SlotScripter) Renew() { s.cluster.ReloadState(context.Background()) } // does not wait

// The pauses between attempts. go-redis looks the masters up every 200 ms at most.
const (
	minSlotPause = 5 * time.Millisecond
	maxSlotPause = 100 * time.Millisecond
)

func (s *SlotScripter) onMaster(ctx context.Context, call func(*redis.Client) error) error {
	for pause := minSlotPause; ; pause = min(2*pause, maxSlotPause) {
		master, err := s.cluster.MasterForKey(ctx, s.key)
		if err == nil {
			err = call(master)
		}
		reply, replied := errors.AsType[redis.Error](err)
		switch {
		case err == nil, replied && !isElsewhere(reply.Error()):
			return err
		case !replied:
			s.Renew() // the slot may have another master soon
			return err
		}
		s.Renew()
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return err
		}
	}
}

// isElsewhere reports whether a node of a Cluster has refused a command because the slot
// is another node's, is migrating, or belongs to none
// (https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec).
func isElsewhere(said string) bool {
	switch word, _, _ := strings.Cut(said, " "); word {
	case "MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN":
		return true
	}
	return false
}
