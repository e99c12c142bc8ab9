//lint:file-ignore SA1019 services in the field still have this library, under its old name

package compat

import (
	"context"
	"errors"
	"net/http"
	"testing"

	"nhooyr.io/websocket"
)

// dialNhooyr connects with nhooyr.io/websocket, the last under that name.
func dialNhooyr(t *testing.T, s server, path string, protocols ...string) (*client, int) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	mode := websocket.CompressionDisabled
	if s.compress {
		mode = websocket.CompressionContextTakeover
	}
	conn, response, err := websocket.Dial(ctx, s.url+path, &websocket.DialOptions{
		HTTPClient:   &http.Client{Transport: &http.Transport{TLSClientConfig: s.tls}},
		Subprotocols: protocols,

		CompressionMode: mode,
	})
	if err != nil {
		if response == nil {
			t.Fatal(err)
		}
		return nil, response.StatusCode
	}
	s.checkAgreed(t, response)
	t.Cleanup(func() { conn.CloseNow() })
	conn.SetReadLimit(2 << 20)

	events := make(chan event, events)
	go func() {
		for {
			kind, data, err := conn.Read(ctx)
			if err != nil {
				var closed websocket.CloseError
				if errors.As(err, &closed) {
					events <- event{kind: ended, code: int(closed.Code), data: closed.Reason}
				} else {
					events <- event{kind: ended, data: err.Error()}
				}
				return
			}
			events <- event{kind: received, text: kind == websocket.MessageText, data: string(data)}
		}
	}()
	return &client{
		events:      events,
		subprotocol: conn.Subprotocol(),
		send: func(text bool, data []byte) error {
			return conn.Write(ctx, websocket.MessageType(opcode(text)), data)
		},
		split: func(text bool, data []byte) error {
			w, err := conn.Writer(ctx, websocket.MessageType(opcode(text)))
			if err != nil {
				return err
			}
			for len(data) > 0 { // each Write is a fragment
				n := min(len(data), 1000)
				if _, err := w.Write(data[:n]); err != nil {
					return err
				}
				data = data[n:]
			}
			return w.Close()
		},
		ping: func(data string) error {
			err := conn.Ping(ctx) // chooses its own data, and checks it
			events <- event{kind: ponged, data: data}
			return err
		},
		blindToPings: true,
		close: func(code int, reason string) error {
			// Close and Read compete for the answer, and either may find
			// only that the other has had it.
			conn.Close(websocket.StatusCode(code), reason)
			return nil
		},
		blindToEcho: true,
		drop:        conn.CloseNow,
	}, response.StatusCode
}
