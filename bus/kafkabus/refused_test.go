package kafkabus_test

import (
	"errors"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl/plain"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/bus/kafkabus"
	"github.com/heraldgo/herald/internal/test/bustest"
)

// Credentials that Kafka no longer takes are told as that, by Health and by
// Publish, and no gap ends before they are taken again.
func TestRefusedLater(t *testing.T) {
	b := startFake(t, kfake.EnableSASL(), kfake.Superuser("PLAIN", "admin", "admin"))
	options := quick
	options.Opts = []kgo.Opt{kgo.SASL(plain.Auth{User: "admin", Pass: "admin"}.AsMechanism())}
	bus, err := kafkabus.New(b.seeds(), &options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { bus.Close() })
	r := bustest.Record(t, bus)
	b.cluster.ControlKey(int16(kmsg.SASLAuthenticate), func(req kmsg.Request) (kmsg.Response, error, bool) {
		b.cluster.KeepControl()
		resp := req.ResponseKind().(*kmsg.SASLAuthenticateResponse)
		resp.ErrorCode = kerr.SaslAuthenticationFailed.Code
		return resp, nil, true
	})
	bus.Reset()
	r.Await("Health that names the credentials", func() bool { return errors.Is(bus.Health(), kerr.SaslAuthenticationFailed) })
	r.Await("Publish that names the credentials", func() bool {
		err := bus.Publish(t.Context(), herald.Packet{Topic: "topic"})
		return errors.Is(err, kerr.SaslAuthenticationFailed) && errors.Is(err, herald.ErrBusDown)
	})
	if gaps := r.Gaps(); len(gaps) != 1 || !gaps[0].Until.IsZero() {
		t.Errorf("gaps %v, want one that is open", gaps)
	}
}
