// Command brokers runs the demo of examples/chat on any broker.
package main

import (
	"errors"
	"flag"

	"github.com/heraldgo/herald/examples/chat/demo"
)

func main() {
	var bus string
	demo.Command{
		Name:  "brokers",
		About: "brokers runs the chat demo on any broker.",
		Flags: func(flags *flag.FlagSet) {
			flags.StringVar(&bus, "bus", "", "`URL` of the broker between the nodes, which must be set: "+schemes())
			flags.Lookup("redis").Usage = "`URL` of the Redis that knows who is online: redis://, rediss://, unix://, redis+cluster:// or redis+sentinel:// " +
				"(default: that of -bus, where it is one, or else one inside this process)"
		},
		Prepare: func(o *demo.Options) error {
			if bus == "" {
				return errors.New("-bus: must be set, to a URL of " + schemes())
			}
			return useBus(o, bus)
		},
	}.Main()
}
