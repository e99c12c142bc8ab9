package servertest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
)

// Ports are taken from blocks between firstPort and the ports that Linux gives to
// outgoing connections (ip(7), ip_local_port_range). A connection could take one of
// those before the server listens.
const (
	firstPort = 10_000
	lastPort  = 32_000
	blockSize = 50
)

// ports has the ports that this process may use. The tests of several packages run
// concurrently, each in a process of its own. So each process claims whole blocks:
// it listens on the first port of a block for as long as it lives.
var ports struct {
	mu     sync.Mutex
	claims []net.Listener
	next   int
	end    int // behind the last port of the block
}

// FreeAddr returns a loopback address on which nothing listens. It is returned only
// once, in all processes, while this process lives.
func FreeAddr(t testing.TB) string {
	t.Helper()
	ports.mu.Lock()
	defer ports.mu.Unlock()
	var err error
	for range 1000 {
		if ports.next == ports.end {
			if err = claimBlock(); err != nil {
				continue
			}
		}
		addr := fmt.Sprint("127.0.0.1:", ports.next)
		ports.next++
		var l net.Listener
		if l, err = net.Listen("tcp", addr); err == nil {
			l.Close()
			return addr
		}
	}
	t.Fatal(err)
	return ""
}

// claimBlock claims a block for this process. The caller holds ports.mu.
func claimBlock() error {
	first := firstPort + blockSize*rand.N((lastPort-firstPort)/blockSize)
	l, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", first))
	if err != nil {
		return err
	}
	ports.claims = append(ports.claims, l)
	ports.next, ports.end = first+1, first+blockSize
	return nil
}
