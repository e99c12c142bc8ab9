package wsraw

import (
	"bufio"
	"errors"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// speak returns a Conn to a server that writes a frame every ten seconds.
func speak(t *testing.T, frame []byte) *Conn {
	client, server := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			time.Sleep(10 * time.Second)
			if _, err := server.Write(frame); err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() { client.Close(); <-done })
	return &Conn{Conn: client, br: bufio.NewReader(client)}
}

// What does not come is an error, whatever else comes instead.
func TestWhatNeverComes(t *testing.T) {
	ping, message := []byte{0x80 | Ping, 0}, []byte{0x80 | Text, 0}
	for name, test := range map[string]struct {
		instead []byte
		read    func(*Conn) error
	}{
		"message":             {ping, func(c *Conn) error { _, err := c.ReadMessage(); return err }},
		"close frame":         {ping, func(c *Conn) error { _, err := c.ReadClose(); return err }},
		"close, but messages": {message, func(c *Conn) error { _, err := c.ReadClose(); return err }},
		"frame that is wanted": {ping, func(c *Conn) error {
			_, err := c.ReadUntil(func(f Frame) bool { return f.Opcode == Pong })
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if err := test.read(speak(t, test.instead)); !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Error(err)
				}
			})
		})
	}
}

// Each frame that is read has its time, and a call that has succeeded bounds none that
// comes after it.
func TestWhatComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := speak(t, []byte{0x80 | Text, 0})
		for range 2 * patience / (10 * time.Second) {
			if _, err := c.ReadFrame(); err != nil {
				t.Fatal(err)
			}
			if _, err := c.ReadMessage(); err != nil {
				t.Fatal(err)
			}
		}
	})
}
