package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald"
)

// A mailer sends mails. logMailer stands for yours.
type mailer interface {
	mail(ctx context.Context, to, text string) error
}

type logMailer struct{}

func (logMailer) mail(_ context.Context, to, text string) error {
	log.Printf("mail to %s: %s", to, text)
	return nil
}

// work ships an order every five seconds, until ctx is done. Its Hub takes no
// connections, so it could run anywhere that reaches Redis and the database.
func work(ctx context.Context, store *store, rdb *redis.Client, mail mailer) error {
	hub, err := herald.New(herald.Config{Redis: rdb, Retention: 5 * time.Minute})
	if err != nil {
		return err
	}
	defer func() {
		grace, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		hub.Shutdown(grace)
	}()
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		if _, err := store.ship(ctx); err != nil && !errors.Is(err, sql.ErrNoRows) {
			log.Printf("ship: %v", err)
		}
		if err := tell(ctx, store, hub, mail); err != nil {
			log.Printf("tell the customer: %v", err) // and again at the next tick
		}
	}
}

// tell tells customers of shipped orders that they do not know of. Each is marked only
// when a device has it, or a mail is on its way. If the worker dies in between, the
// customer is told again: a page that gets an order twice shows it once, by its id.
func tell(ctx context.Context, store *store, hub *herald.Hub, mail mailer) error {
	for {
		o, customer, err := store.untold(ctx)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		wait, cancel := context.WithTimeout(ctx, 5*time.Second)
		delivery, err := hub.Deliver(wait, herald.User(customer), herald.JSON(o))
		cancel()
		if err != nil {
			return err
		}
		if delivery.ReceivedTotal == 0 {
			text := fmt.Sprintf("Your %s is on its way.", o.Item)
			if err := mail.mail(ctx, customer, text); err != nil {
				return err
			}
		}
		if err := store.setTold(ctx, o.ID); err != nil {
			return err
		}
	}
}
