package natsbus_test

import (
	"strings"
	"testing"

	"github.com/heraldgo/herald/bus/natsbus"
	"github.com/heraldgo/herald/internal/test/servertest"
)

// A server that is full says so and hangs up, perhaps before it has read what
// a client has to say. Its words count, and not how the connection ended.
func TestFullInWords(t *testing.T) {
	server := servertest.NATS(t, "-c", config(t, "max_connections: 3"))
	a := open(t, server.Addr, quick())
	for range 50 {
		bus, err := natsbus.New(server.Addr, quick())
		if err == nil {
			bus.Close()
		}
		if err == nil || !strings.Contains(strings.ToLower(err.Error()), "maximum connections exceeded") {
			t.Fatalf("New at a server that has one connection left: %v", err)
		}
	}
	a.awaitHealthy()
}
