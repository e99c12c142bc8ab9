package main

import (
	"compress/flate"
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/centrifugal/centrifuge"
)

// centrifugeServer gives each user a personal channel, with presence, and
// everyone a common one, without: server-side subscriptions, made on connect.
type centrifugeServer struct {
	node  *centrifuge.Node
	ws    http.Handler
	quote bool // messages that are no JSON objects become JSON strings
	keep  []centrifuge.PublishOption
}

// everyone is the common channel.
const everyone = "everyone"

// centrifugeOptions are what a node has besides what centrifuge's own examples have.
type centrifugeOptions struct {
	tuned    bool // the binary protocol, pooled write buffers and a write delay, so that messages share system calls
	keeps    bool // the personal channels have history, and recovery
	deflates bool // permessage-deflate
}

func startCentrifuge(redisAddr string, o centrifugeOptions) (server, error) {
	node, err := centrifuge.New(centrifuge.Config{LogLevel: centrifuge.LogLevelNone})
	if err != nil {
		return nil, err
	}
	var delay time.Duration
	if o.tuned {
		delay = 5 * time.Millisecond
	}
	node.OnConnecting(func(ctx context.Context, e centrifuge.ConnectEvent) (centrifuge.ConnectReply, error) {
		reply := centrifuge.ConnectReply{
			Subscriptions: map[string]centrifuge.SubscribeOptions{everyone: {}},
			WriteDelay:    delay,
		}
		if o.tuned {
			reply.MaxMessagesInFrame = -1
		}
		if cred, ok := centrifuge.GetCredentials(ctx); ok {
			reply.Subscriptions["#"+cred.UserID] = centrifuge.SubscribeOptions{EmitPresence: true, EnableRecovery: o.keeps}
		}
		return reply, nil
	})
	shard, err := centrifuge.NewRedisShard(node, centrifuge.RedisShardConfig{Address: redisAddr})
	if err != nil {
		return nil, err
	}
	shards := []*centrifuge.RedisShard{shard}
	broker, err := centrifuge.NewRedisBroker(node, centrifuge.RedisBrokerConfig{Shards: shards})
	if err != nil {
		return nil, err
	}
	presence, err := centrifuge.NewRedisPresenceManager(node, centrifuge.RedisPresenceManagerConfig{Shards: shards})
	if err != nil {
		return nil, err
	}
	node.SetBroker(broker)
	node.SetPresenceManager(presence)
	if err := node.Run(); err != nil {
		return nil, err
	}
	config := centrifuge.WebsocketConfig{CheckOrigin: func(*http.Request) bool { return true }, UseWriteBufferPool: o.tuned}
	if o.deflates {
		config.Compression = true
		config.CompressionLevel = flate.BestSpeed // Centrifugo's default; the library's would not compress
		if o.tuned {
			config.CompressionMinSize = 512
			config.CompressionPreparedMessageCacheSize = 16 << 20 // messages to many are compressed once
		}
	}
	s := &centrifugeServer{node: node, ws: centrifuge.NewWebsocketHandler(node, config), quote: !o.tuned}
	if o.keeps {
		s.keep = []centrifuge.PublishOption{centrifuge.WithHistory(keepEach, retention)}
	}
	return s, nil
}

func (s *centrifugeServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ctx := centrifuge.SetCredentials(r.Context(), &centrifuge.Credentials{UserID: r.URL.Query().Get("user")})
	s.ws.ServeHTTP(w, r.WithContext(ctx))
}

func (s *centrifugeServer) toUser(_ context.Context, user string, p payload) error {
	return s.publish("#"+user, p, s.keep...)
}

func (s *centrifugeServer) toEveryone(_ context.Context, p payload) error {
	return s.publish(everyone, p)
}

func (s *centrifugeServer) publish(channel string, p payload, opts ...centrifuge.PublishOption) error {
	data := p.bytes
	if s.quote && !strings.HasPrefix(p.text, "{") {
		data = strconv.AppendQuote(make([]byte, 0, len(data)+2), p.text)
	}
	_, err := s.node.Publish(channel, data, opts...)
	return err
}
