package herald_test

import (
	"context"
	"testing"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/heraldtest"
)

func TestSendReachesEveryDeviceOnEveryNode(t *testing.T) {
	cluster := heraldtest.NewCluster(t, 3, herald.Config{})
	var clients []*heraldtest.Client
	for i := range 3 {
		clients = append(clients, cluster.Connect(i, herald.Identity{User: "42"}))
	}
	stranger := cluster.Connect(0, herald.Identity{User: "43"})
	ctx := context.Background()
	for i, node := range cluster.Nodes {
		if err := node.Hub.Send(ctx, herald.User("42"), herald.Text("hello from "+string(rune('0'+i)))); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range clients {
		c.Expect("hello from 0", "hello from 1", "hello from 2")
	}
	if err := cluster.Nodes[2].Hub.Send(ctx, herald.Everyone(), herald.Text("all")); err != nil {
		t.Fatal(err)
	}
	stranger.Expect("all")
}
