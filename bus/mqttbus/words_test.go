package mqttbus_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/bus/mqttbus"
	"github.com/heraldgo/herald/internal/test/servertest"
)

// mosquitto hangs up without a word if it has no room for more connections.
func TestFullInWords(t *testing.T) {
	server := servertest.Mosquitto(t, "max_connections 2")
	full := 0
	for range 20 { // it counts loosely
		bus, err := mqttbus.New("mqtt://"+server.Addr, nil)
		if err == nil {
			defer bus.Close()
			continue
		}
		full++
		if !errors.Is(err, herald.ErrBusDown) || !strings.Contains(err.Error(), "no room for more connections") {
			t.Errorf("New at a broker that is full: %v", err)
		}
	}
	if full == 0 {
		t.Error("the broker was never full")
	}
}
