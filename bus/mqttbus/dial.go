package mqttbus

import (
	"bufio"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"syscall"
	"time"

	"github.com/eclipse/paho.golang/packets"
)

// A dialer opens links.
type dialer struct {
	addr      string
	tls       *tls.Config // nil: plain TCP
	user      *string
	password  *string
	timeout   time.Duration // to connect, and for an answer
	keepAlive uint16        // seconds
}

// limits are what the broker said of itself in its CONNACK.
type limits struct {
	packet    int           // bytes of a packet
	inflight  int           // QoS 1 packets without an answer
	qos       byte          // the highest
	keepAlive time.Duration // how often it wants to hear from us, if that is more often than we said; else 0
}

// dial opens a link. in is nil for one that only publishes. A *refusal says that the
// broker was reached and refuses us.
func (d *dialer) dial(ctx context.Context, in *inbound) (*link, error) {
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", d.addr)
	if err != nil {
		return nil, err
	}
	l := &link{
		conn:     conn,
		quickAck: newQuickAck(conn),
		timeout:  d.timeout,
		in:       in,
		born:     time.Now(),
		dead:     make(chan struct{}),
		ended:    make(chan struct{}),
	}
	if d.tls != nil {
		l.conn = tls.Client(conn, d.tls)
	}
	l.r = bufio.NewReaderSize(source{l}, bufferSize(in))
	stop := context.AfterFunc(ctx, func() { l.hangUp() })
	err = d.handshake(ctx, l)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err == nil {
		err = conn.SetDeadline(time.Time{})
	}
	if err != nil {
		l.hangUp()
		if ctx.Err() != nil { // what the closed connection says is no news
			err = fmt.Errorf("connect to %s: %w", d.addr, context.Cause(ctx))
		}
		return nil, err
	}
	if in != nil {
		in.link = l
	}
	go l.read()
	return l, nil
}

// handshake opens the MQTT session: a clean one, which ends with the link, under an
// id that nobody has had, because a session that the broker kept for an old id would
// bring back old packets (MQTT 5.0, sections 3.1.2.4 and 3.1.2.11.2).
func (d *dialer) handshake(ctx context.Context, l *link) error {
	if t, ok := l.conn.(*tls.Conn); ok {
		if err := t.HandshakeContext(ctx); err != nil {
			return err
		}
	}
	c := packets.Connect{
		ProtocolName:    "MQTT",
		ProtocolVersion: 5,
		CleanStart:      true,
		ClientID:        "herald" + rand.Text()[:17], // 23 characters are taken everywhere: section 3.1.3.1
		KeepAlive:       d.keepAlive,
		Properties:      &packets.Properties{},
	}
	if d.user != nil {
		c.UsernameFlag, c.Username = true, *d.user
	}
	if d.password != nil {
		c.PasswordFlag, c.Password = true, []byte(*d.password)
	}
	_, failed := c.WriteTo(l.conn) // a broker that is full may have hung up already, with its reason or without
	if h, err := peekHeader(l.r); errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || err != nil && failed != nil {
		return fmt.Errorf("mqttbus: the broker hung up without a word: it may have no room for more connections, or want TLS: %w", cmp.Or(failed, err))
	} else if err != nil {
		return fmt.Errorf("await CONNACK: %w", err)
	} else if h.kind != packets.CONNACK || h.size > maxControl {
		return fmt.Errorf("%w: packet %d where CONNACK was due", errProtocol, h.kind)
	} else if h.size == 2 { // without properties: MQTT 3
		return &refusal{"CONNECT", packets.ConnackUnsupportedProtocolVersion, "it does not speak MQTT 5"}
	}
	p, err := readPacket(l.r)
	if err != nil {
		return fmt.Errorf("read CONNACK: %w", err)
	}
	a := p.Content.(*packets.Connack)
	if a.ReasonCode != packets.ConnackSuccess {
		return &refusal{"CONNECT", a.ReasonCode, a.Reason()}
	}
	if a.SessionPresent {
		return fmt.Errorf("%w: a session where a clean one was asked for", errProtocol)
	}
	l.limits = readLimits(a.Properties)
	return nil
}

// readLimits reads the properties of a CONNACK (MQTT 5.0, section 3.2.2.3).
func readLimits(p *packets.Properties) limits {
	l := limits{packet: maxRemaining, inflight: math.MaxUint16, qos: 2}
	if p.MaximumPacketSize != nil {
		l.packet = int(min(*p.MaximumPacketSize, maxRemaining))
	}
	if p.ReceiveMaximum != nil {
		l.inflight = max(int(*p.ReceiveMaximum), 1)
	}
	if p.MaximumQOS != nil {
		l.qos = *p.MaximumQOS
	}
	if p.ServerKeepAlive != nil {
		l.keepAlive = time.Duration(*p.ServerKeepAlive) * time.Second
	}
	return l
}
