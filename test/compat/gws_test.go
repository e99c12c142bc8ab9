package compat

import (
	"bytes"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/lxzan/gws"
)

// gwsEvents hands what gws reports to a test. Its OnPing is gws's own, which
// answers with an empty pong, whatever the ping said.
type gwsEvents struct {
	gws.BuiltinEventHandler
	events chan<- event
}

func (g gwsEvents) OnPing(c *gws.Conn, data []byte) {
	g.BuiltinEventHandler.OnPing(c, data)
	g.events <- event{kind: pinged}
}

func (g gwsEvents) OnPong(_ *gws.Conn, data []byte) {
	g.events <- event{kind: ponged, data: string(data)}
}

func (g gwsEvents) OnMessage(_ *gws.Conn, m *gws.Message) {
	g.events <- event{kind: received, text: m.Opcode == gws.OpcodeText, data: string(m.Bytes())}
	m.Close()
}

func (g gwsEvents) OnClose(_ *gws.Conn, err error) {
	var closed *gws.CloseError
	if errors.As(err, &closed) {
		g.events <- event{kind: ended, code: int(closed.Code), data: string(closed.Reason)}
	} else {
		g.events <- event{kind: ended, data: err.Error()}
	}
}

// dialGws connects with lxzan/gws.
func dialGws(t *testing.T, s server, path string, protocols ...string) (*client, int) {
	t.Helper()
	header := http.Header{}
	if len(protocols) > 0 {
		header.Set("Sec-WebSocket-Protocol", strings.Join(protocols, ", "))
	}
	events := make(chan event, events)
	option := &gws.ClientOption{
		Addr:             s.url + path,
		RequestHeader:    header,
		HandshakeTimeout: patience,
		CheckUtf8Enabled: true,

		PermessageDeflate: gws.PermessageDeflate{Enabled: s.compress, Threshold: 1},
	}
	if s.tls != nil {
		option.TlsConfig = s.tls.Clone()
	}
	conn, response, err := gws.NewClient(gwsEvents{events: events}, option)
	if err != nil {
		if response == nil {
			t.Fatal(err)
		}
		return nil, response.StatusCode
	}
	s.checkAgreed(t, response)
	t.Cleanup(func() { conn.NetConn().Close() })
	go conn.ReadLoop()
	return &client{
		events:      events,
		subprotocol: conn.SubProtocol(),
		send: func(text bool, data []byte) error {
			return conn.WriteMessage(gws.Opcode(opcode(text)), data)
		},
		split: func(text bool, data []byte) error {
			return conn.WriteFile(gws.Opcode(opcode(text)), bytes.NewReader(data)) // fragments of 128 KB
		},
		ping: func(data string) error { return conn.WritePing([]byte(data)) },
		close: func(code int, reason string) error {
			return conn.WriteClose(uint16(code), []byte(reason))
		},
		blindToEcho: true, // it hangs up after its close frame
		terse:       true,
		drop:        conn.NetConn().Close,
	}, response.StatusCode
}
