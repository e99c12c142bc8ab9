package main

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald"
)

// heraldServer is a Hub as the README mounts it, with the default limits.
type heraldServer struct{ *herald.Hub }

func newHerald(redisAddr string) (server, error) { return startHerald(redisAddr, 0, false) }

func startHerald(redisAddr string, retention time.Duration, compression bool) (server, error) {
	hub, err := herald.New(herald.Config{
		Redis: redis.NewClient(&redis.Options{Addr: redisAddr}),
		Authenticate: func(r *http.Request) (herald.Identity, error) {
			return herald.Identity{User: r.URL.Query().Get("user")}, nil
		},
		// All clients are one address.
		MaxHandshakes: -1, HandshakeRatePerAddr: -1,
		Logger:      slog.New(slog.DiscardHandler),
		Retention:   retention,
		Compression: compression,
	})
	return heraldServer{hub}, err
}

func (s heraldServer) toUser(ctx context.Context, user string, p payload) error {
	return s.Send(ctx, herald.User(user), herald.Text(p.text))
}

func (s heraldServer) toEveryone(ctx context.Context, p payload) error {
	return s.Send(ctx, herald.Everyone(), herald.Text(p.text))
}
