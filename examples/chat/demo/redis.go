package demo

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// A redisURL is what a URL says of a Redis. Exactly one of its fields is set.
type redisURL struct {
	single   *redis.Options
	cluster  *redis.ClusterOptions
	sentinel *redis.FailoverOptions
}

// redisForms is the rule for such a URL.
const redisForms = "must be redis://user:password@host:port/db (rediss with TLS), unix:///socket, " +
	"redis+cluster://host:port,host:port, or redis+sentinel://host:port,host:port/master/db"

// NewRedis returns a client for the Redis at a URL: of a single server, as
// redis.ParseURL takes it; redis+cluster://host:port,host:port of a Redis
// Cluster; or redis+sentinel://host:port,host:port/master/db of the master of
// that name, which the Sentinels at these addresses watch. The last two are
// written rediss+… if there is TLS. A user and password are those of
// the Redis servers. No error has them in it.
func NewRedis(address string) (redis.UniversalClient, error) {
	u, err := parseRedis(address)
	if err != nil {
		return nil, err
	}
	return u.client(func(dial dialFunc) dialFunc { return dial }), nil
}

func parseRedis(address string) (u redisURL, err error) {
	scheme, rest, _ := strings.Cut(address, "://")
	scheme, kind, _ := strings.Cut(scheme, "+")
	switch kind {
	case "":
		u.single, err = redis.ParseURL(address)
	case "cluster":
		if address, err = oneHost(scheme, rest, ""); err == nil {
			u.cluster, err = redis.ParseClusterURL(address)
		}
	case "sentinel":
		if address, err = oneHost(scheme, rest, "master_name"); err != nil {
			break
		}
		if u.sentinel, err = redis.ParseFailoverURL(address); err == nil && u.sentinel.SentinelPassword != "" {
			o := u.sentinel
			o.Username, o.Password = o.SentinelUsername, o.SentinelPassword
			o.SentinelUsername, o.SentinelPassword = "", ""
		}
	default:
		err = fmt.Errorf("unknown scheme %s+%s", scheme, kind)
	}
	if bad, ok := errors.AsType[*url.Error](err); ok {
		err = bad.Err // without the URL
	}
	if err != nil {
		return redisURL{}, fmt.Errorf("%w: %s", err, redisForms)
	}
	return u, nil
}

// oneHost turns what follows the scheme of a URL with several hosts into the
// URL that go-redis takes: the others are parameters. If the first element
// of the path is to be a parameter as well, first is its name.
func oneHost(scheme, rest, first string) (string, error) {
	rest, query, _ := strings.Cut(rest, "?")
	parameters, err := url.ParseQuery(query)
	if err != nil {
		return "", errors.New("malformed query")
	}
	user := ""
	if i := strings.LastIndex(rest, "@"); i >= 0 {
		user, rest = rest[:i+1], rest[i+1:]
	}
	list, path, _ := strings.Cut(rest, "/")
	hosts := strings.Split(list, ",")
	for _, host := range hosts {
		if name, port, err := net.SplitHostPort(host); err != nil || name == "" || port == "" {
			return "", fmt.Errorf("host %q: must be host:port", host)
		}
	}
	parameters["addr"] = append(parameters["addr"], hosts[1:]...)
	if first != "" {
		name, db, _ := strings.Cut(path, "/")
		if name, err = url.PathUnescape(name); err != nil || name == "" {
			return "", errors.New("the name of the master is missing")
		}
		parameters.Set(first, name)
		path = db
	}
	return scheme + "://" + user + hosts[0] + "/" + path + "?" + parameters.Encode(), nil
}

// Redacted returns a URL, even an invalid one, without what may be secret in it: who
// logs in, and the parameters.
func Redacted(address string) string {
	start := 0
	if i := strings.Index(address, "://"); i >= 0 {
		start = i + len("://")
	}
	scheme, rest := address[:start], address[start:]
	rest, query, _ := strings.Cut(rest, "?")
	i := strings.LastIndex(rest, "@")
	switch {
	case i >= 0:
		rest = "xxxxx" + rest[i:]
	case strings.Contains(query, "@"): // the mark may be part of a password
		rest = "xxxxx"
	}
	return scheme + rest
}

type dialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

// client returns a client that dials as wrap says.
func (u redisURL) client(wrap func(dialFunc) dialFunc) redis.UniversalClient {
	dialer := func(timeout time.Duration, secure *tls.Config) dialFunc {
		return wrap(redis.NewDialer(&redis.Options{DialTimeout: cmp.Or(timeout, 5*time.Second), TLSConfig: secure}))
	}
	switch {
	case u.cluster != nil:
		o := *u.cluster
		o.Dialer = dialer(o.DialTimeout, o.TLSConfig)
		return redis.NewClusterClient(&o)
	case u.sentinel != nil:
		o := *u.sentinel
		o.Dialer = dialer(o.DialTimeout, o.TLSConfig)
		return redis.NewFailoverClient(&o)
	default:
		o := *u.single
		o.Dialer = dialer(o.DialTimeout, o.TLSConfig)
		return redis.NewClient(&o)
	}
}

// once returns a client that tries everything once.
func (u redisURL) once() redis.UniversalClient {
	const timeout = 3 * time.Second
	switch {
	case u.cluster != nil:
		o := *u.cluster
		o.MaxRedirects, o.DialerRetries, o.DialTimeout = -1, 1, timeout
		return redis.NewClusterClient(&o)
	case u.sentinel != nil:
		o := *u.sentinel
		o.MaxRetries, o.DialerRetries, o.DialTimeout = -1, 1, timeout
		return redis.NewFailoverClient(&o)
	default:
		o := *u.single
		o.MaxRetries, o.DialerRetries, o.DialTimeout = -1, 1, timeout
		return redis.NewClient(&o)
	}
}
