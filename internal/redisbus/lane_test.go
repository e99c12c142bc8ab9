package redisbus

import (
	"context"
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/heraldgo/herald/internal/errs"
)

// A laneRig has a lane, the publishers of two partitions, and the server's end of
// the connection.
type laneRig struct {
	lane   *lane
	pubs   []*publisher
	server net.Conn
	asked  []byte // the bytes of the last commit
}

func newLaneRig(t *testing.T) *laneRig {
	server, client := net.Pipe()
	trunk := newTrunk(client, 10*time.Second)
	trunk.shared, trunk.lane = true, newLane(trunk)
	go trunk.run()
	r := &laneRig{lane: trunk.lane, server: server}
	for _, tag := range []string{"0", "66"} {
		p := newPublisher(t.Context(), &dialer{way: clusterWay("p", tag, true)}, nil)
		t.Cleanup(func() { p.batch.Close(errs.Closed) })
		p.set(trunk.add(nil), nil)
		r.pubs = append(r.pubs, p)
	}
	t.Cleanup(func() {
		trunk.fail(errs.Closed)
		<-trunk.over
	})
	return r
}

// publication returns a publication of packets in a partition.
func (r *laneRig) publication(partition int, packets ...string) *publication {
	what := newPublication()
	what.pub = r.pubs[partition]
	for _, p := range packets {
		what.add("SPUBLISH", "", Packet{p, nil})
	}
	return what
}

// commit makes the lane commit the items and the server answer. It returns their
// results.
func (r *laneRig) commit(answers string, items ...*publication) []error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 1<<16)
		n, _ := r.server.Read(b) // all bytes of one write
		r.asked = b[:n]
		r.server.Write([]byte(answers))
	}()
	results := r.lane.commit(items)
	<-done
	return results
}

func (r *laneRig) alive(partition int) bool {
	l, _ := r.pubs[partition].state()
	return l.reason() == nil
}

// Partitions share a write, but an error of one partition does not affect the
// others.
func TestLane(t *testing.T) {
	const taken, mine, moved = ":1\r\n", "$-1\r\n", "-MOVED 1 127.0.0.1:1\r\n"
	t.Run("all well", func(t *testing.T) {
		r := newLaneRig(t)
		results := r.commit(strings.Repeat(taken, 3)+mine+mine, r.publication(0, "a"), r.publication(1, "b"), r.publication(0, "c"))
		if errors.Join(results...) != nil || strings.Count(string(r.asked), "SPUBLISH") != 3 || strings.Count(string(r.asked), "GET") != 2 {
			t.Errorf("%v, behind %q", results, r.asked)
		}
	})
	t.Run("a slot has moved", func(t *testing.T) {
		r := newLaneRig(t)
		results := r.commit(taken+moved+taken+mine+moved, r.publication(0, "a"), r.publication(1, "b"), r.publication(0, "c"))
		if results[0] != nil || results[1] != errAside || results[2] != nil {
			t.Errorf("%v", results)
		}
		if !r.alive(0) || r.alive(1) || r.lane.trunk.reason() != nil {
			t.Errorf("the partition that stays: %v, the one that moves: %v, the trunk: %v", r.alive(0), r.alive(1), r.lane.trunk.reason())
		}
		if results := r.lane.commit([]*publication{r.publication(1, "b")}); results[0] != errAside {
			t.Errorf("on no link: %v", results)
		}
	})
	t.Run("what was taken is in doubt", func(t *testing.T) {
		r := newLaneRig(t)
		results := r.commit(taken+taken+moved+mine, r.publication(0, "a"), r.publication(1, "b"))
		if !errors.Is(results[0], errs.Unknown) || results[1] != nil || r.alive(0) || !r.alive(1) {
			t.Errorf("%v", results)
		}
	})
	t.Run("a slot moves amid a publication", func(t *testing.T) {
		r := newLaneRig(t)
		results := r.commit(taken+moved+moved+moved, r.publication(1, "a", "b", "c"))
		if !errors.Is(results[0], errs.Unknown) {
			t.Errorf("%v", results)
		}
	})
	t.Run("the connection breaks", func(t *testing.T) {
		r := newLaneRig(t)
		go func() {
			b := make([]byte, 1<<16)
			r.server.Read(b)
			r.server.Write([]byte(taken))
			r.server.Close()
		}()
		results := r.lane.commit([]*publication{r.publication(0, "a"), r.publication(1, "b")})
		if !errors.Is(results[0], errs.Unknown) || !errors.Is(results[1], errs.Unknown) {
			t.Errorf("%v", results)
		}
		if results := r.lane.commit([]*publication{r.publication(0, "a")}); results[0] != errAside {
			t.Errorf("on a dead trunk: %v", results)
		}
	})
}

// A partition that has left a trunk does not wait for a commit of the others there,
// which a hanging server may never answer.
func TestLaneLeft(t *testing.T) {
	r := newLaneRig(t)
	go io.Copy(io.Discard, r.server)
	others := make(chan error, 1)
	go func() { others <- r.pubs[0].publish(t.Context(), r.publication(0, "a")) }()
	for r.lane.trunk.next() == nil {
		runtime.Gosched()
	}
	left, _ := r.pubs[1].state()
	left.leave(errors.New("the slot has moved"))
	r.pubs[1].batch.Close(errs.Closed) // the error that it must get
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if err := r.pubs[1].publish(ctx, r.publication(1, "b")); !errors.Is(err, errs.Closed) {
		t.Errorf("its own publisher was not asked: %v", err)
	}
	r.lane.trunk.fail(errs.Closed)
	<-others
}
