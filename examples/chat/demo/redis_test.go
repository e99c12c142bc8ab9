package demo

import (
	"fmt"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
)

func TestNewRedis(t *testing.T) {
	for address, want := range map[string]string{
		"redis://localhost":                      "single localhost:6379 db 0  ",
		"rediss://ann:secret@host:1/3":           "single host:1 db 3 ann secret TLS",
		"unix:///run/redis.sock":                 "single /run/redis.sock db 0  ",
		"redis+cluster://host:1":                 "cluster host:1  ",
		"redis+cluster://host:1,[::1]:2":         "cluster host:1,[::1]:2  ",
		"redis+cluster://:a%2Cb@h:1,h:2/":        "cluster h:1,h:2  a,b",
		"rediss+cluster://h:1,h:2?max_retries=1": "cluster h:1,h:2   TLS",
		"redis+sentinel://h:1,h:2,h:3/main":      "sentinel h:1,h:2,h:3 main db 0  ",
		"redis+sentinel://ann:secret@h:1/m%2F/4": "sentinel h:1 m/ db 4 ann secret",
	} {
		u, err := parseRedis(address)
		if got := describe(u); err != nil || got != want {
			t.Errorf("%s: %q, %v: want %q", address, got, err, want)
		}
	}
	for address, want := range map[string]string{
		"":                                     "invalid URL scheme",
		"localhost:6379":                       "localhost",
		"http+cluster://h:1":                   "invalid URL scheme: http",
		"redis+ring://h:1":                     "unknown scheme redis+ring",
		"redis+cluster://h":                    `host "h": must be host:port`,
		"redis+cluster://:secret@h:1,h":        `host "h": must be host:port`,
		"redis+sentinel://:secret@h:1":         "the name of the master is missing",
		"redis+sentinel://:secret@h:1/":        "the name of the master is missing",
		"redis+sentinel://:secret@h:1/main/x":  `invalid database number: "x"`,
		"redis+sentinel://h:1/main?secret=1":   "unexpected option: secret",
		"redis+sentinel://:sec%ret@h:1/main/1": "invalid",
	} {
		_, err := NewRedis(address)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "must be redis://") {
			t.Errorf("%s: %v: want %q", address, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "secret@") {
			t.Errorf("%s: the password is in the error: %v", address, err)
		}
	}
}

func describe(u redisURL) string {
	secure := ""
	switch {
	case u.cluster != nil:
		if u.cluster.TLSConfig != nil {
			secure = " TLS"
		}
		return fmt.Sprintf("cluster %s %s %s%s", strings.Join(u.cluster.Addrs, ","), u.cluster.Username, u.cluster.Password, secure)
	case u.sentinel != nil:
		o := u.sentinel
		return fmt.Sprintf("sentinel %s %s db %d %s %s", strings.Join(o.SentinelAddrs, ","), o.MasterName, o.DB, o.Username, o.Password)
	case u.single != nil:
		if u.single.TLSConfig != nil {
			secure = " TLS"
		}
		return fmt.Sprintf("single %s db %d %s %s%s", u.single.Addr, u.single.DB, u.single.Username, u.single.Password, secure)
	}
	return ""
}

func TestNewRedisKinds(t *testing.T) {
	single, err1 := NewRedis("redis://h:1")
	cluster, err2 := NewRedis("redis+cluster://h:1")
	sentinel, err3 := NewRedis("redis+sentinel://h:1/main")
	if err1 != nil || err2 != nil || err3 != nil {
		t.Fatal(err1, err2, err3)
	}
	for _, c := range []redis.UniversalClient{single, cluster, sentinel} {
		defer c.Close()
	}
	if _, ok := cluster.(*redis.ClusterClient); !ok {
		t.Errorf("a cluster is a %T", cluster)
	}
	if c, ok := sentinel.(*redis.Client); !ok || c.Options().Addr != "FailoverClient" {
		t.Errorf("what Sentinels watch is a %T", sentinel)
	}
}

func TestRedacted(t *testing.T) {
	for address, want := range map[string]string{
		"redis://h:1/2":                     "redis://h:1/2",
		"amqp://ann:secret@h/vhost?x=y":     "amqp://xxxxx@h/vhost",
		"redis://:a/b@c@[":                  "redis://xxxxx@[",
		"ann:secret@h":                      "xxxxx@h",
		"localhost:6379":                    "localhost:6379",
		"":                                  "",
		"redis://:a?b@h":                    "redis://xxxxx",
		"redis://h?password=a@b":            "redis://xxxxx",
		"nats://a:b@h:1,nats://c:d@i:2":     "nats://xxxxx@i:2",
		"redis+sentinel://:s@h:1,i:2/m?p=s": "redis+sentinel://xxxxx@h:1,i:2/m",
	} {
		if got := Redacted(address); got != want {
			t.Errorf("%s: %s, want %s", address, got, want)
		}
	}
}
