package attacktest

import (
	"bytes"
	"fmt"
	"net/http"
	"time"

	"github.com/heraldgo/herald/internal/test/wsraw"
)

// compressing is the setting of a node that agrees on compression, and offer the
// header of a client that offers it.
var (
	compressing = setting{Compression: true}
	offer       = http.Header{"Sec-Websocket-Extensions": {wsraw.Offer}}
)

// rsv1 says that a message is compressed.
const rsv1 = 4

// provoke writes frames for which the node closes the connection, and waits for the
// close frame without answering it.
func (a *attacker) provoke(c *wsraw.Conn, frames ...wsraw.Frame) {
	if c.WriteFrames(frames...) != nil {
		return
	}
	if closed, err := c.ReadClose(); err == nil {
		a.note(fmt.Sprintf("closed with %d", closed.Code))
	}
	if a.gentle {
		time.Sleep(time.Second)
	}
}

// bombs has 50 connections, each of which sends 60 KB that inflate to 60 MB.
func bombs(a *attacker) {
	mega := append(wsraw.Deflate(make([]byte, 1<<20)), wsraw.Flushed...)
	bomb := bytes.TrimSuffix(bytes.Repeat(mega, 60<<10/len(mega)), []byte(wsraw.Flushed))
	a.hold(50, user("bomb", 1, ""), func(c *wsraw.Conn) {
		a.provoke(c, wsraw.Frame{Fin: true, RSV: rsv1, Opcode: wsraw.Binary, Payload: bomb})
	})
}

// neverFinishesCompressed has 8 connections, each with a message that never ends,
// in fragments that inflate to nothing.
func neverFinishesCompressed(a *attacker) {
	nothing := []byte("\x00" + wsraw.Flushed)
	fragment := wsraw.Frame{Payload: bytes.Repeat(nothing, 4)}
	more := bytes.Repeat(fragment.Bytes(), 100)
	a.hold(8, user("unending", 1, ""), func(c *wsraw.Conn) {
		if c.WriteFrames(wsraw.Frame{RSV: rsv1, Opcode: wsraw.Binary, Payload: nothing}) == nil {
			flood(a, c, more)
		}
	})
}

// tinyCompressed has 8 connections that send messages of one byte. Half of them
// send as many as MessageRate allows, and half ten times as many.
func tinyCompressed(a *attacker) {
	tiny := wsraw.Frame{Fin: true, RSV: rsv1, Opcode: wsraw.Binary, Payload: wsraw.Deflate([]byte{0})}.Bytes()
	go a.hold(4, user("tiny", 1, ""), func(c *wsraw.Conn) { a.pace(c, bytes.Repeat(tiny, 10), 11*time.Millisecond) })
	a.hold(4, user("tinier", 1, ""), func(c *wsraw.Conn) { a.pace(c, bytes.Repeat(tiny, 100), 11*time.Millisecond) })
}

// slowToInflate has 4 connections that send as much as the node takes, in messages
// that are as slow to inflate as possible.
func slowToInflate(a *attacker) {
	slow := wsraw.Frame{Fin: true, RSV: rsv1, Opcode: wsraw.Binary, Payload: wsraw.SlowToInflate(64 << 10)}.Bytes()
	a.hold(4, user("slowly", 1, ""), func(c *wsraw.Conn) { a.pace(c, slow, 65*time.Millisecond) })
}

// pace writes b once in every interval pace until the connection ends. A gentle
// attacker writes a twentieth as often.
func (a *attacker) pace(c *wsraw.Conn, b []byte, pace time.Duration) {
	go a.watch(c)
	if a.gentle {
		pace *= 20
	}
	ticker := time.NewTicker(pace)
	defer ticker.Stop()
	for err := error(nil); err == nil; <-ticker.C {
		_, err = c.Write(b)
	}
}

// brokenCompressed has 50 connections whose messages cannot be inflated, half of
// them from the start, half after 64 KB of output.
func brokenCompressed(a *attacker) {
	late := append(wsraw.Deflate(make([]byte, 64<<10)), 6)
	a.hold(50, user("broken", 1, ""), func(c *wsraw.Conn) {
		payload := []byte("\x06not compressed")
		if a.conns.Load()%2 == 0 {
			payload = late
		}
		a.provoke(c, wsraw.Frame{Fin: true, RSV: rsv1, Opcode: wsraw.Binary, Payload: payload})
	})
}

// misplacedRSV1 has 50 connections with RSV1 in a continuation, or in a ping.
func misplacedRSV1(a *attacker) {
	nothing := []byte("\x00" + wsraw.Flushed)
	a.hold(50, user("misplaced", 1, ""), func(c *wsraw.Conn) {
		if a.conns.Load()%2 == 0 {
			a.provoke(c, wsraw.Frame{Fin: true, RSV: rsv1, Opcode: wsraw.Ping})
		} else {
			a.provoke(c, wsraw.Frame{RSV: rsv1, Opcode: wsraw.Binary, Payload: nothing}, wsraw.Frame{Fin: true, RSV: rsv1, Payload: nothing})
		}
	})
}

// unagreedRSV1 has 50 connections that send compressed messages without having
// offered compression.
func unagreedRSV1(a *attacker) {
	a.hold(50, user("unagreed", 1, ""), func(c *wsraw.Conn) {
		a.provoke(c, wsraw.Frame{Fin: true, RSV: rsv1, Opcode: wsraw.Binary, Payload: wsraw.Deflate([]byte("hello"))})
	})
}
