package mqttbus_test

import (
	"testing"

	"github.com/heraldgo/herald/bus/mqttbus"
	"github.com/heraldgo/herald/internal/test/bustest"
	"github.com/heraldgo/herald/internal/test/netproxy"
	"github.com/heraldgo/herald/internal/test/servertest"
)

const patience = bustest.Patience

// A rig is a Bus that publishes a stream straight to the broker, and one
// behind a proxy that receives it.
type rig struct {
	*testing.T
	*bustest.Stream
	server   *servertest.Server
	proxy    *netproxy.Proxy
	from, to *mqttbus.Bus
}

// newRig starts a rig whose receiver connects to via, or to the proxy where
// via is empty. A packet has size bytes at least.
func newRig(t *testing.T, server *servertest.Server, via string, size int, options *mqttbus.Options) *rig {
	r := &rig{T: t, server: server}
	if via == "" {
		r.proxy = netproxy.Start(t, server.Addr)
		via = r.proxy.Addr
	}
	r.from = open(t, server.Addr, options)
	r.to = open(t, via, options)
	r.Stream = bustest.Start(t, r.from, r.to, bustest.Options{Size: size})
	return r
}
