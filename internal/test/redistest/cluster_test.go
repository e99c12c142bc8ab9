package redistest_test

import (
	"strconv"
	"testing"

	"github.com/heraldgo/herald/internal/test/redistest"
)

// A slot moves with its keys, and a replica takes over from a killed master.
func TestCluster(t *testing.T) {
	c := redistest.StartCluster(t, 3, 3)
	client := c.Client()
	ctx := t.Context()
	for i := range 250 {
		if err := client.Set(ctx, "{slot}"+strconv.Itoa(i), i, 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
	slot := c.Slot("{slot}")
	from := c.MasterOf(slot)
	to := c.Nodes[0]
	if from == to {
		to = c.Nodes[1]
	}
	c.Migrate(slot, to)
	if got := c.MasterOf(slot); got != to {
		t.Errorf("the slot is at %s, want %s", got.Addr, to.Addr)
	}
	if got, err := client.Get(ctx, "{slot}249").Int(); err != nil || got != 249 {
		t.Errorf("a key of the slot: got %d, %v", got, err)
	}
	replica := c.ReplicaOf(to)
	to.Kill()
	c.AwaitFailover(slot, to)
	if got := c.MasterOf(slot); got != replica {
		t.Errorf("after the failover the slot is at %s, want %s", got.Addr, replica.Addr)
	}
	c.AwaitOK()
	to.Restart()
	c.AwaitOK()
}
