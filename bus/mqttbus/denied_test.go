package mqttbus_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/bus/mqttbus"
	"github.com/heraldgo/herald/internal/test/bustest"
	"github.com/heraldgo/herald/internal/test/servertest"
)

// An aclServer is a mosquitto whose permissions change while it runs.
type aclServer struct {
	*servertest.Server
	t    *testing.T
	file string
}

const aclPassword = "secret"

func newACLServer(t *testing.T, acl string) *aclServer {
	s := &aclServer{t: t, file: write(t, "acl", []byte(acl))}
	s.Server = servertest.Mosquitto(t, "set_tcp_nodelay true", "allow_anonymous false",
		"password_file "+write(t, "passwords", []byte(account("from", aclPassword)+account("to", aclPassword))),
		"acl_file "+s.file)
	return s
}

// allow has the server read other permissions.
func (s *aclServer) allow(acl string) {
	s.t.Helper()
	if err := os.WriteFile(s.file, []byte(acl), 0o600); err != nil {
		s.t.Fatal(err)
	}
	if err := syscall.Kill(s.PID(), syscall.SIGHUP); err != nil {
		s.t.Fatal(err)
	}
}

func (s *aclServer) open(user string, options *mqttbus.Options) *mqttbus.Bus {
	return open(s.t, user+":"+aclPassword+"@"+s.Addr, options)
}

// A broker whose permissions no longer let a node read confirms its
// subscriptions all the same, again and again. None of that ends the gap.
func TestReadingDenied(t *testing.T) {
	const all = "user from\ntopic readwrite herald/#\nuser to\ntopic readwrite herald/#\n"
	for _, qos := range []byte{0, 1} {
		t.Run(fmt.Sprint("QoS ", qos), func(t *testing.T) {
			t.Parallel()
			server := newACLServer(t, all)
			options := &mqttbus.Options{QoS: qos, ProbeInterval: time.Second / 10, ProbeTimeout: time.Second}
			from, to := server.open("from", options), server.open("to", options)
			r := bustest.Start(t, from, to, bustest.Options{})
			r.AwaitPackets(100)
			server.allow(strings.ReplaceAll(all, "user to\ntopic readwrite", "user to\ntopic write"))
			r.AwaitGap()
			arrivals := func() int { return strings.Count(server.Log(), "u'to'") }
			first := arrivals()
			r.Await("new links", func() bool { return arrivals() > first+4 })
			if gaps := r.Gaps(); len(gaps) != 1 || !gaps[0].Until.IsZero() {
				t.Errorf("while reading is denied there are the gaps %v, want one that is open", gaps)
			}
			if err := to.Health(); err == nil {
				t.Error("Health is nil while reading is denied")
			}
			server.allow(all)
			if got := r.Check(); got.Lost == 0 || len(got.Gaps) != 1 {
				t.Errorf("%d packets lost, %d gaps, want some, and 1", got.Lost, len(got.Gaps))
			}
		})
	}
}

// If one topic is denied, QoS 1 tells who publishes to it. QoS 0 cannot.
func TestOneTopicDenied(t *testing.T) {
	const acl = "user from\ntopic readwrite herald/#\ntopic deny herald/secret\nuser to\ntopic readwrite herald/#\n"
	server := newACLServer(t, acl)
	for qos, want := range []bool{false, true} {
		bus := server.open("from", &mqttbus.Options{QoS: byte(qos)})
		err := bus.Publish(t.Context(), herald.Packet{Topic: "secret"})
		if told := err != nil && strings.Contains(err.Error(), "0x87") && !errors.Is(err, herald.ErrUnknown); told != want {
			t.Errorf("QoS %d: a packet to a topic that is denied: %v", qos, err)
		}
		if err := bus.Publish(t.Context(), herald.Packet{Topic: "allowed"}); err != nil {
			t.Errorf("QoS %d: a packet to another topic: %v", qos, err)
		}
		if err := bus.Health(); err != nil {
			t.Errorf("QoS %d: Health: %v", qos, err)
		}
	}
}
