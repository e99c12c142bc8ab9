package mqttbus_test

import (
	"crypto/rand"
	"testing"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/bus/mqttbus"
	"github.com/heraldgo/herald/internal/test/hubtest"
	"github.com/heraldgo/herald/internal/test/servertest"
)

func TestHubs(t *testing.T) {
	for name, qos := range map[string]byte{"QoS 0": 0, "QoS 1": 1} {
		t.Run(name, func(t *testing.T) {
			hubtest.Test(t, func(t testing.TB) hubtest.Broker { return newBroker(t, qos) })
		})
	}
}

func BenchmarkNodes(b *testing.B) {
	hubtest.BenchmarkNodes(b, func(t testing.TB) hubtest.Broker { return newBroker(t, 0) })
}

func newBroker(t testing.TB, qos byte) hubtest.Broker {
	server := servertest.Mosquitto(t)
	options := &mqttbus.Options{Prefix: rand.Text(), QoS: qos}
	return hubtest.Broker{
		NewBus: func() (herald.Bus, error) { return mqttbus.New("mqtt://"+server.Addr, options) },
		Restart: func() {
			server.Kill()
			server.Restart()
		},
		PIDs: func() []int { return []int{server.PID()} },
	}
}
