package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/bus/kafkabus"
	"github.com/heraldgo/herald/bus/mqttbus"
	"github.com/heraldgo/herald/bus/natsbus"
	"github.com/heraldgo/herald/bus/rabbitbus"
	"github.com/heraldgo/herald/examples/chat/demo"
)

// A broker is a kind of broker, and how a Bus on it is made.
type broker struct {
	schemes []string
	open    func(url string) (herald.Bus, error)
}

// brokers are those whose Buses are modules of their own. All that the demo makes on
// them bears its name, so that it does not disturb other services.
var brokers = []broker{
	{[]string{"amqp", "amqps"}, func(url string) (herald.Bus, error) {
		return rabbitbus.New(url, &rabbitbus.Options{Exchange: demo.Prefix})
	}},
	{[]string{"mqtt", "mqtts"}, func(url string) (herald.Bus, error) {
		return mqttbus.New(url, &mqttbus.Options{Prefix: demo.Prefix})
	}},
	{[]string{"kafka"}, func(url string) (herald.Bus, error) {
		o := &kafkabus.Options{Create: &kafkabus.Create{}}
		if _, hosts, _ := strings.Cut(url, "://"); !strings.Contains(hosts, "/") {
			o.Topic = demo.Prefix
		}
		return kafkabus.New(url, o)
	}},
	{[]string{"nats", "tls"}, func(url string) (herald.Bus, error) {
		return natsbus.New(url, &natsbus.Options{Prefix: demo.Prefix})
	}},
}

var redisSchemes = []string{"redis", "rediss", "unix", "redis+cluster", "rediss+cluster", "redis+sentinel", "rediss+sentinel"}

// schemes lists what a URL may begin with.
func schemes() string {
	all := slices.Clone(redisSchemes)
	for _, b := range brokers {
		all = append(all, b.schemes...)
	}
	last := len(all) - 1
	return strings.Join(all[:last], "://, ") + ":// or " + all[last] + "://"
}

// useBus sets the Bus of the nodes to the one at a URL.
func useBus(o *demo.Options, address string) error {
	fault := func(err error) error { return fmt.Errorf("-bus %q: %w", demo.Redacted(address), err) }
	scheme, _, _ := strings.Cut(address, "://")
	if slices.Contains(redisSchemes, scheme) {
		client, err := demo.NewRedis(address)
		if err != nil {
			return fault(err)
		}
		if o.Redis == "" || o.Redis == address {
			// herald.Config.Redis is the Bus and the Registry.
			client.Close()
			o.Redis = address
			return nil
		}
		o.NewBus = func(string) (herald.Bus, error) {
			bus, err := herald.NewRedisBus(client, &herald.RedisOptions{Prefix: demo.Prefix})
			if err != nil {
				return nil, fault(err)
			}
			return bus, nil
		}
		return nil
	}
	for _, b := range brokers {
		if !slices.Contains(b.schemes, scheme) {
			continue
		}
		o.NewBus = func(string) (herald.Bus, error) {
			bus, err := b.open(address)
			if err != nil {
				return nil, fault(err)
			}
			return bus, nil
		}
		return nil
	}
	return fault(fmt.Errorf("must be a URL of %s", schemes()))
}
