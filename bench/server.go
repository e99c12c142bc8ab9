package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A server is one node of a contestant, in a process of its own.
type server interface {
	http.Handler // takes clients: /?user=u7

	// toUser and toEveryone send one message to all connections of a user,
	// or to all there are, on every node. They return when the contestant's
	// own call does, and keep nothing of the payload.
	toUser(ctx context.Context, user string, p payload) error
	toEveryone(ctx context.Context, p payload) error
}

// makers starts a node of each contestant that is written in Go.
var makers = map[string]func(redisAddr string) (server, error){
	"herald":           newHerald,
	"centrifuge":       func(addr string) (server, error) { return startCentrifuge(addr, centrifugeOptions{}) },
	"centrifuge-tuned": func(addr string) (server, error) { return startCentrifuge(addr, centrifugeOptions{tuned: true}) },
	"gws":              func(addr string) (server, error) { return newGWS(addr, false) },
	"tutorial":         newTutorial,
	"floor":            func(string) (server, error) { return newFloor(false) },
}

// A command is one line that the bench writes to a node's standard input.
type command struct {
	Do string // stats, settle, publish, bodies, profile, position, and what -scale asks for

	// Of profile: where a CPU profile is written from now on; "" ends it. Of bodies: the
	// file with what the messages are from now on.
	Path string

	// Of publish.

	To      string // user, everyone, or a group
	Users   int    // message i goes to user i % Users
	First   int    // the number of the first message
	Count   int
	Senders int // each waits for its call to return before its next
	Size    int // bytes of a message
	Rate    int // messages a second, each from a goroutine of its own; 0: as fast as Senders can

	// Of connect, with First and Users.

	Addr string
	Step int
}

// An answer is the line that the node writes back.
type answer struct {
	Addr  string // of the first line only
	Error string

	Position string // of position: where the log is
	Number   int    // of what -scale asks for

	// Of publish.

	Failed  int           // calls that returned an error
	Elapsed time.Duration // until the last call had returned

	// Of stats.

	CPU        time.Duration // user and system, since the start
	RSS        int64         // bytes
	Memory     int64         // bytes of heap in use and stacks
	Goroutines int
	Mallocs    uint64
}

// serve is the whole life of a node: a Go program's half of the protocol.
func serve(kind, redisAddr string, useTLS bool) error {
	if kind == kindClients {
		return serveClients()
	}
	make, ok := makers[kind]
	if !ok {
		make, ok = echoMakers[kind]
	}
	if !ok {
		make, ok = keepMakers[kind]
	}
	if !ok {
		make, ok = deflateMakers[kind]
	}
	if !ok {
		return fmt.Errorf("no contestant is called %q", kind)
	}
	s, err := make(redisAddr)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	addr := l.Addr().String()
	if useTLS {
		cert, err := selfSigned()
		if err != nil {
			return err
		}
		l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"http/1.1"}})
	}
	go http.Serve(l, s)
	h := &host{server: s}
	return answerAll(answer{Addr: addr}, h.obey)
}

// A host is a server that takes commands.
type host struct {
	server
	bodies bodies // what the messages are, or nil
}

// answerAll writes the first answer, then one to each command on standard input.
func answerAll(first answer, obey func(command) answer) error {
	out := json.NewEncoder(os.Stdout)
	if err := out.Encode(first); err != nil {
		return err
	}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var c command
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			return err
		}
		if err := out.Encode(obey(c)); err != nil {
			return err
		}
	}
	return lines.Err()
}

func (h *host) obey(c command) answer {
	switch c.Do {
	case "publish":
		return h.publish(c)
	case "bodies":
		var err error
		if h.bodies, err = readBodies(c.Path); err != nil {
			return answer{Error: err.Error()}
		}
		return answer{}
	case "settle":
		runtime.GC()
		runtime.GC()
		debug.FreeOSMemory()
		return stats()
	case "stats":
		return stats()
	case "position":
		return position(h.server)
	case "profile":
		return profile(c.Path)
	}
	scaled, ok := h.server.(scaled)
	if !ok {
		return answer{Error: "no such command: " + c.Do}
	}
	n, err := scaled.scale(context.Background(), c)
	if err != nil {
		return answer{Error: err.Error()}
	}
	return answer{Number: n}
}

func (h *host) publish(c command) answer {
	start := time.Now()
	var failed atomic.Int64
	send := func(b []byte, i int, at time.Time) {
		p := h.bodies.payload(b, c.First+i, at)
		var err error
		switch c.To {
		case "everyone":
			err = h.toEveryone(context.Background(), p)
		case "user":
			err = h.toUser(context.Background(), user((c.First+i)%c.Users), p)
		default:
			err = h.server.(scaled).toGroup(context.Background(), c.To, p)
		}
		if err != nil {
			failed.Add(1)
		}
	}
	var sending sync.WaitGroup
	if c.Rate > 0 {
		for i := range c.Count {
			due := start.Add(time.Duration(i) * time.Second / time.Duration(c.Rate))
			time.Sleep(time.Until(due))
			sending.Go(func() { send(newPayload(c.Size), i, due) })
		}
	} else {
		var next atomic.Int64
		for range c.Senders {
			sending.Go(func() {
				b := newPayload(c.Size)
				for i := int(next.Add(1)) - 1; i < c.Count; i = int(next.Add(1)) - 1 {
					send(b, i, time.Now())
				}
			})
		}
	}
	sending.Wait()
	return answer{Failed: int(failed.Load()), Elapsed: time.Since(start)}
}

func profile(path string) answer {
	pprof.StopCPUProfile()
	if path == "" {
		return answer{}
	}
	f, err := os.Create(path)
	if err == nil {
		err = pprof.StartCPUProfile(f)
	}
	if err != nil {
		return answer{Error: err.Error()}
	}
	return answer{}
}

func stats() answer {
	var usage syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return answer{
		CPU:        time.Duration(usage.Utime.Nano() + usage.Stime.Nano()),
		RSS:        residentMemory(os.Getpid()),
		Memory:     int64(m.HeapAlloc + m.StackInuse),
		Goroutines: runtime.NumGoroutine(),
		Mallocs:    m.Mallocs,
	}
}

// residentMemory returns bytes, from /proc.
func residentMemory(pid int) int64 {
	statm, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(statm))
	pages, _ := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize())
}

func user(i int) string { return "u" + strconv.Itoa(i) }
