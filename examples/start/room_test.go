package main

import (
	"net/http/httptest"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/heraldtest"
	"github.com/redis/go-redis/v9"
)

func TestRoom(t *testing.T) {
	rdb := redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr()})
	defer rdb.Close()
	cluster := heraldtest.NewCluster(t, 2, herald.Config{Retention: time.Minute})
	service := room(&Database{rdb}, cluster.Nodes[0].Hub)

	anna := cluster.ConnectHistory(0, herald.Identity{User: "anna", Groups: []string{"room"}})
	anna.Cut() // her network fails
	service.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("POST", "/messages?text=hello", nil))
	if !anna.ComeBack(1) { // to the other node
		t.Error("something is missing")
	}
	anna.Expect(`{"id":1,"text":"hello"}`)
}
