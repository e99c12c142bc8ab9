package main

import (
	"context"
	"fmt"
	"time"

	"github.com/heraldgo/herald"
)

const scaleDrain = 10 * time.Second // for Shutdown

// kindClients makes this program a crowd of clients.
const kindClients = "clients"

func serveClients() error {
	l, err := newLoad(plain)
	if err != nil {
		return err
	}
	defer l.close()
	return answerAll(answer{}, func(c command) answer {
		switch c.Do {
		case "connect":
			if err := l.connectAll(c.Addr, c.First, c.Step, c.Users, 128, false); err != nil {
				return answer{Error: err.Error()}
			}
			return answer{}
		case "tally":
			return answer{Number: int(l.tally.count.Load())}
		}
		return answer{Error: "no such command: " + c.Do}
	})
}

// A scaled server does what -scale asks of a node, besides publishing.
type scaled interface {
	scale(ctx context.Context, c command) (int, error)
	toGroup(ctx context.Context, group string, p payload) error
}

func (s heraldServer) toGroup(ctx context.Context, group string, p payload) error {
	return s.Send(ctx, herald.Group(group), herald.Text(p.text))
}

// scale does c, and returns the number that it asks for.
func (s heraldServer) scale(ctx context.Context, c command) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, scaleWithin)
	defer cancel()
	switch c.Do {
	case "join":
		return 0, s.Join(ctx, herald.Everyone(), c.To)
	case "sessions":
		sessions, err := s.Sessions(ctx, herald.Group(c.To))
		return len(sessions), err
	case "count":
		return s.Count(ctx)
	case "online":
		return s.countOnline(ctx, c.Users)
	case "drain": // over 80% of its time
		ctx, cancel := context.WithTimeout(ctx, scaleDrain)
		defer cancel()
		return 0, s.Shutdown(ctx)
	}
	return 0, fmt.Errorf("no such command: %s", c.Do)
}

// countOnline asks for as many users at a time as one call may have.
func (s heraldServer) countOnline(ctx context.Context, users int) (n int, err error) {
	const most = 1000
	for first := 0; first < users; first += most {
		var some []string
		for i := first; i < min(first+most, users); i++ {
			some = append(some, user(i))
		}
		online, err := s.Online(ctx, some...)
		if err != nil {
			return 0, err
		}
		for _, yes := range online {
			if yes {
				n++
			}
		}
	}
	return n, nil
}

// restart replaces the server by an empty one at the same address.
func (r *redisServer) restart() error {
	r.stop()
	time.Sleep(time.Second) // nodes see that it is away
	next, err := startRedisAt(r.addr)
	if err != nil {
		return err
	}
	*r = *next
	return nil
}
