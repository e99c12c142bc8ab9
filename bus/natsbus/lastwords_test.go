package natsbus

import (
	"bufio"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// A hungUp is a connection whose other end has gone, and has left something
// to read.
type hungUp struct{ net.Conn }

func (hungUp) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

// Why a server hung up is what it said, and not that nothing can be written
// any more.
func TestLastWords(t *testing.T) {
	server, client := net.Pipe()
	l := &link{conn: hungUp{client}, r: bufio.NewReader(client), timeout: time.Minute, dead: make(chan struct{})}
	l.running.Go(l.read)
	go func() {
		io.WriteString(server, "-ERR 'Stale Connection'\r\n")
		server.Close()
	}()
	if out := l.do([]byte(ping)); out.err == nil || !strings.Contains(out.err.Error(), "Stale Connection") {
		t.Errorf("the link died of %v", out.err)
	}
	l.close(nil)
}
