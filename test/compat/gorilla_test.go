package compat

import (
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// dialGorilla connects with gorilla/websocket.
func dialGorilla(t *testing.T, s server, path string, protocols ...string) (*client, int) {
	t.Helper()
	dialer := websocket.Dialer{
		TLSClientConfig:  s.tls,
		HandshakeTimeout: patience,
		Subprotocols:     protocols,
		WriteBufferSize:  1000, // a longer message goes out as fragments of this size

		EnableCompression: s.compress,
	}
	// As browsers do; a middleware that compresses must leave the upgrade alone.
	header := http.Header{"Accept-Encoding": {"gzip, deflate, br"}}
	conn, response, err := dialer.Dial(s.url+path, header)
	if err != nil {
		if response == nil {
			t.Fatal(err)
		}
		return nil, response.StatusCode
	}
	s.checkAgreed(t, response)
	t.Cleanup(func() { conn.Close() })

	events := make(chan event, events)
	write := func(text bool, data []byte) error {
		return conn.WriteMessage(opcode(text), data)
	}
	pong := conn.PingHandler()
	conn.SetPingHandler(func(data string) error {
		events <- event{kind: pinged}
		return pong(data)
	})
	conn.SetPongHandler(func(data string) error {
		events <- event{kind: ponged, data: data}
		return nil
	})
	go func() {
		for {
			kind, data, err := conn.ReadMessage()
			if err != nil {
				var closed *websocket.CloseError
				if errors.As(err, &closed) && closed.Code != websocket.CloseAbnormalClosure {
					events <- event{kind: ended, code: closed.Code, data: closed.Text}
				} else {
					events <- event{kind: ended, data: err.Error()}
				}
				return
			}
			events <- event{kind: received, text: kind == websocket.TextMessage, data: string(data)}
		}
	}()
	return &client{
		events:      events,
		subprotocol: conn.Subprotocol(),
		send:        write,
		split:       write,
		ping: func(data string) error {
			return conn.WriteControl(websocket.PingMessage, []byte(data), time.Now().Add(patience))
		},
		close: func(code int, reason string) error {
			return conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, reason), time.Now().Add(patience))
		},
		drop: conn.NetConn().Close,
	}, response.StatusCode
}

// opcode is the opcode of a data frame (RFC 6455 section 5.2).
func opcode(text bool) int {
	if text {
		return 1
	}
	return 2
}
