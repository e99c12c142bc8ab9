package main

import (
	"cmp"
	"context"
	"encoding/json"
	"log"
	"net/http"
	"os"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/observe/heraldprom"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/redis/go-redis/v9"
)

// A Database has the messages of all nodes, in a list in Redis.
type Database struct{ rdb *redis.Client }

func (d *Database) Insert(ctx context.Context, text string) (Message, error) {
	id, err := d.rdb.Incr(ctx, "room:last").Result()
	if err != nil {
		return Message{}, err
	}
	m := Message{int(id), text}
	b, err := json.Marshal(m)
	if err != nil {
		return Message{}, err
	}
	return m, d.rdb.RPush(ctx, "room:messages", b).Err()
}

func (d *Database) Last(ctx context.Context, n int) ([]Message, error) {
	list, err := d.rdb.LRange(ctx, "room:messages", int64(-n), -1).Result()
	if err != nil {
		return nil, err
	}
	messages := make([]Message, len(list))
	for i, m := range list {
		if err := json.Unmarshal([]byte(m), &messages[i]); err != nil {
			return nil, err
		}
	}
	return messages, nil
}

func main() {
	rdb := redis.NewClient(&redis.Options{Addr: cmp.Or(os.Getenv("REDIS"), "localhost:6379")})
	people := &logins{rdb}
	hub, err := herald.New(herald.Config{
		Redis:              rdb,
		Retention:          5 * time.Minute,
		Authenticate:       people.whoIs,
		RejectAfterUpgrade: true, // so that a page learns that its login has ended
	})
	if err != nil {
		log.Fatal(err)
	}
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(heraldprom.NewCollector(hub))

	mux := http.NewServeMux()
	mux.Handle("GET /ws", hub) // it asks whoIs itself
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
	mux.Handle("/", people.required(room(&Database{rdb}, hub)))
	addr := cmp.Or(os.Getenv("ADDR"), "localhost:8080")
	log.Print("serving http://" + addr)
	log.Fatal(http.ListenAndServe(addr, mux))
}
