package redisconn

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald/internal/errs"
)

// Dial dials a server, by way of the Sentinels if the options are theirs.
func Dial(ctx context.Context, o *redis.Options) (conn net.Conn, err error) {
	err = Calm(func() (err error) {
		conn, err = o.Dialer(ctx, o.Network, o.Addr)
		return err
	})
	return conn, DialError(err)
}

// DialError returns an error of a client's Dialer in plain words. redis.Nil is the
// Sentinels' answer that they do not know the master.
func DialError(err error) error {
	if errors.Is(err, redis.Nil) {
		return errors.New("herald: the Sentinels know no master by the name that MasterName of redis.FailoverOptions gives")
	}
	return err
}

// Session lets go-redis authenticate, select the database and run the user's
// OnConnect on conn. It dials nothing, because go-redis would log each failed dial of
// its own. If check is not nil, its error is returned. After an error the caller
// closes conn.
func Session(ctx context.Context, conn net.Conn, o redis.Options, check Check) (*redis.Client, error) {
	var dialed atomic.Bool
	o.Dialer = func(context.Context, string, string) (net.Conn, error) {
		if dialed.Swap(true) {
			return nil, errors.New("herald: a link has one connection")
		}
		return frank(conn), nil
	}
	client := redis.NewClient(&o)
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	err := Calm(func() error {
		session := client.Conn()
		hello, err := session.Do(ctx, "HELLO", "3").Result()
		if err == nil && check != nil {
			err = check(ctx, session, hello)
		}
		return err
	})
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err == nil {
		err = conn.SetDeadline(time.Time{})
	}
	if err != nil {
		client.Close()
		return nil, err
	}
	return client, nil
}

// A Check returns an error if a server is not the right one. hello is its answer to
// HELLO.
type Check func(ctx context.Context, session *redis.Conn, hello any) error

// ErrClusterNode refuses a client of a single Redis whose server is a node of a
// Cluster: such a client sees neither a failover nor what is done on other nodes.
var ErrClusterNode = fmt.Errorf("%w: Redis: the server is a node of a Cluster: use a *redis.ClusterClient", errs.Invalid)
