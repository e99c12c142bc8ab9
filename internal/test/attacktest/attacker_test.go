package attacktest

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/heraldgo/herald/internal/test/wsraw"
)

// An attacker runs one attack, from addresses that no other attack uses.
type attacker struct {
	attack
	addr   string // of the node
	number byte   // of the attack
	gentle bool

	conns, requests, sent, got atomic.Int64

	mu      sync.Mutex
	answers map[string]int // by HTTP status, close code, or error
}

// A cost is what an attack did, and how the node answered.
type cost struct {
	Conns    int64 // opened
	Requests int64
	Sent     int64 // bytes
	Got      int64
	Answers  map[string]int
}

// runAttackers is the main function of the attackers' process. They attack until
// the test closes their stdin and they have been told what they must be told. All
// their connections end with the process.
func runAttackers(o order) error {
	// In reality attackers have machines of their own, so they must not take the
	// node's processor.
	if err := syscall.Setpriority(syscall.PRIO_PROCESS, 0, 10); err != nil {
		return err
	}
	all := make(map[string]*attacker)
	for i, attack := range attacks {
		if slices.Contains(o.Attacks, attack.name) {
			a := &attacker{attack: attack, addr: o.Addr, number: byte(i), gentle: o.Gentle, answers: make(map[string]int)}
			all[attack.name] = a
			go a.run(a)
		}
	}
	io.Copy(io.Discard, os.Stdin)
	costs := make(map[string]cost)
	deadline := time.Now().Add(toldTime)
	for name, a := range all {
		for a.told != "" && !a.wasTold() && time.Now().Before(deadline) {
			time.Sleep(50 * time.Millisecond)
		}
		a.mu.Lock() // for ever: nothing more is to be noted
		costs[name] = cost{a.conns.Load(), a.requests.Load(), a.sent.Load(), a.got.Load(), a.answers}
	}
	return json.NewEncoder(os.Stdout).Encode(costs)
}

// A wire is a connection whose bytes are counted.
type wire struct {
	*net.TCPConn
	a *attacker
}

func (w wire) Read(b []byte) (int, error) {
	n, err := w.TCPConn.Read(b)
	w.a.got.Add(int64(n))
	return n, err
}

func (w wire) Write(b []byte) (int, error) {
	n, err := w.TCPConn.Write(b)
	w.a.sent.Add(int64(n))
	return n, err
}

// dial opens a connection from the attacker's next address. It is closed with a
// RST, because connections in TIME_WAIT would each keep a port.
func (a *attacker) dial() (wire, error) {
	turn := byte(a.conns.Load() % int64(max(a.addresses, 1)))
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 1, a.number, 1+turn)}, Timeout: patience}
	c, err := d.Dial("tcp", a.addr)
	if err != nil {
		a.note(err.Error())
		return wire{}, err
	}
	a.conns.Add(1)
	tcp := c.(*net.TCPConn)
	tcp.SetLinger(0)
	return wire{tcp, a}, nil
}

// upgrade opens a connection and asks for a WebSocket on it.
func (a *attacker) upgrade(path string, header http.Header) (*wsraw.Conn, error) {
	c, err := a.dial()
	if err != nil {
		return nil, err
	}
	a.requests.Add(1)
	ws, response, err := wsraw.Handshake(c, path, header)
	if err == nil {
		ws.Compressed = response.Header.Get("Sec-Websocket-Extensions") != ""
		a.note("101")
		return ws, nil
	}
	c.Close()
	if response != nil {
		a.note(fmt.Sprint(response.StatusCode))
	} else {
		a.note("no answer")
	}
	return nil, err
}

// note counts an answer.
func (a *attacker) note(answer string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if i := strings.LastIndex(answer, ": "); i >= 0 { // the cause, without addresses
		answer = answer[i+2:]
	}
	a.answers[answer]++
}

// toldTime is how much longer attackers go on if they have not been told what they
// must be told. A node whose Redis gets no processor time lets nobody in.
const toldTime = 2 * time.Minute

// wasTold reports whether the attack was told what it must be told.
func (a *attacker) wasTold() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.answers[a.told] > 0
}

// watch reads until the connection ends, answers nothing, and notes the close code.
func (a *attacker) watch(c *wsraw.Conn) {
	for {
		f, err := c.ReadFrame()
		if ne, ok := err.(net.Error); ok && ne.Timeout() {
			continue // wsraw's patience has run out
		}
		if err != nil {
			return
		}
		if f.Opcode == wsraw.Close && len(f.Payload) >= 2 {
			a.note(fmt.Sprintf("closed with %d", int(f.Payload[0])<<8|int(f.Payload[1])))
		}
	}
}

// rest pauses a gentle attacker between two requests or writes.
func (a *attacker) rest() {
	if a.gentle {
		time.Sleep(10 * time.Millisecond)
	}
}

// many calls f n times concurrently, and waits. A gentle attacker makes a tenth of
// the calls.
func (a *attacker) many(n int, f func(i int)) {
	if a.gentle {
		n = (n + 9) / 10
	}
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { f(i) })
	}
	all.Wait()
}

// again calls f over and over in n goroutines. After an error a goroutine rests a
// moment.
func (a *attacker) again(n int, f func(i int) error) {
	a.many(n, func(i int) {
		for {
			if f(i) != nil {
				time.Sleep(10 * time.Millisecond)
			}
			a.rest()
		}
	})
}

// hold has n WebSockets at once: each is opened, kept until keep returns, and
// opened again. After a refusal it waits a second.
func (a *attacker) hold(n int, path func(i int) string, keep func(c *wsraw.Conn)) {
	a.many(n, func(i int) {
		for {
			c, err := a.upgrade(path(i), a.header)
			if err != nil {
				time.Sleep(time.Second)
				continue
			}
			keep(c)
			c.Close()
		}
	})
}

// pipeline sends requests on n connections without waiting for earlier answers, so
// that round trips do not limit it.
func (a *attacker) pipeline(n, depth int, path func(i int) string, header http.Header) {
	a.again(n, func(int) error {
		c, err := a.dial()
		if err != nil {
			return err
		}
		defer c.Close()
		window := make(chan struct{}, depth)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			br := bufio.NewReader(c)
			for range window {
				response, err := http.ReadResponse(br, nil)
				if err != nil || response.StatusCode == http.StatusSwitchingProtocols {
					break
				}
				a.note(fmt.Sprint(response.StatusCode))
				if _, err := io.Copy(io.Discard, response.Body); err != nil || response.Close {
					break
				}
			}
			c.Close()
		}()
		for err == nil {
			select {
			case window <- struct{}{}:
				a.rest()
				err = wsraw.WriteRequest(c, path(int(a.requests.Add(1))), header)
			case <-ended:
				err = net.ErrClosed
			}
		}
		close(window)
		<-ended
		return cmp.Or(err, io.EOF)
	})
}
