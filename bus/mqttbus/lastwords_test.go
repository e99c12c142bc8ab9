package mqttbus

import (
	"bufio"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"
)

// A hungUp is a connection whose other end has gone, and has left something
// to read.
type hungUp struct{ net.Conn }

func (hungUp) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

// Why a broker hung up is what it said, and not that nothing can be written
// any more.
func TestLastWords(t *testing.T) {
	broker, client := net.Pipe()
	l := &link{conn: hungUp{client}, quickAck: func() {}, timeout: time.Minute, dead: make(chan struct{}), ended: make(chan struct{})}
	l.r = bufio.NewReader(source{l})
	go l.read()
	go func() {
		p := packets.Disconnect{ReasonCode: packets.DisconnectServerShuttingDown, Properties: &packets.Properties{}}
		p.WriteTo(broker)
		broker.Close()
	}()
	if _, err := l.do(ping, []answer{{kind: packets.PINGRESP}}); err == nil || !strings.Contains(err.Error(), "0x8b") {
		t.Errorf("the link died of %v", err)
	}
}
