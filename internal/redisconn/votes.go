package redisconn

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald/internal/resp"
)

// A sentinelEar is a connection on which a Master hears the Sentinels.
type sentinelEar struct {
	conn   net.Conn
	server string        // its address
	client *redis.Client // opened the session
	r      *resp.Reader
	asked  time.Time // what comes next was published after this
	name   string    // the name that a majority has given since the time named
	named  time.Time
}

// listenEach is how often the messages of the Sentinels are read: often enough to
// tell two that were sent one after the other from two that arrive together.
const listenEach = SentinelLag / 4

// earBuffer holds some lines of Sentinels.
const earBuffer = 4 << 10

// sentinelChannel is the channel on which each Sentinel publishes every two seconds,
// on every server that it watches.
const sentinelChannel = "__sentinel__:hello"

// attend takes over conn, a new connection to the master, and listens on it from now
// on unless it listens to the same server already.
func (m *Master) attend(ctx context.Context, conn net.Conn) error {
	server := conn.RemoteAddr().String()
	if m.ear != nil && m.ear.server == server {
		return conn.Close()
	}
	m.stopListening()
	ctx, cancel := context.WithTimeout(ctx, m.timeout)
	defer cancel()
	start := time.Now()
	client, err := Session(ctx, conn, *m.options, nil)
	if err != nil {
		conn.Close()
		return err
	}
	m.ear = &sentinelEar{conn, server, client, resp.NewReader(conn, earBuffer), start, "", time.Time{}}
	return nil
}

// listen reads what the Sentinels that reach the server have published since the last
// time, and confirms the server if most name it.
func (m *Master) listen(ctx context.Context) error {
	if m.ear == nil {
		return nil // go-redis has not led us to a server yet
	}
	start := time.Now()
	if err := m.ear.listen(ctx, m.timeout, m.votes.hear); err != nil {
		m.stopListening()
		return fmt.Errorf("listen to the Sentinels: %w", err)
	}
	name, named := m.votes.majority(start)
	if len(m.votes) == 0 { // none so far, or a service that answers as a Sentinel does but publishes nothing
		m.confirmLed(m.ear.server)
		return nil
	}
	if name == "" || named.IsZero() {
		return nil
	}
	switch is, known := m.isNamed(ctx, m.ear.server, name, m.settled(name, named)); {
	case !known:
		m.confirmLed(m.ear.server)
	case !is:
		return ErrMoved
	default:
		m.confirm(m.ear.server, named)
	}
	return nil
}

// settled reports whether a majority has given this name for so long that all Sentinels
// must know it, and go-redis has led to this server since.
func (m *Master) settled(name string, named time.Time) bool {
	e := m.ear
	if e.name != name {
		e.name, e.named = name, named
	}
	sure := e.named.Add(SentinelLag)
	return named.After(sure) && m.lastLed(e.server).After(sure)
}

func (m *Master) stopListening() {
	if m.ear != nil {
		m.ear.conn.Close()
		m.ear.client.Close()
		m.ear = nil
	}
}

// listen subscribes, even if it has done so before: the confirmation shows that
// the server is well, and that all that came before it has been read.
func (e *sentinelEar) listen(ctx context.Context, timeout time.Duration, hear func(text string, after time.Time)) error {
	stop := context.AfterFunc(ctx, func() { e.conn.Close() })
	defer stop()
	start := time.Now()
	e.conn.SetDeadline(start.Add(timeout))
	q := resp.AppendWord(resp.AppendWord(resp.AppendCommand(nil, 2), "SUBSCRIBE"), sentinelChannel)
	if _, err := e.conn.Write(q); err != nil {
		return err
	}
	for {
		h, err := e.r.Header()
		if err != nil {
			return err
		}
		v, err := e.r.Rest(h)
		switch {
		case err != nil:
			return err
		case v.Kind == '-':
			return Error(v.Str)
		case len(v.Elems) != 3:
		case v.Elems[0].Str == "message":
			hear(v.Elems[2].Str, e.asked)
		case v.Elems[0].Str == "subscribe":
			e.asked = start
			return nil
		}
	}
}

// maxSentinels bounds the memory that an untrusted server can fill.
const maxSentinels = 100

// forgetSentinel is how long a silent Sentinel counts while most others are heard.
// Sentinels that are cut off together are not forgotten.
const forgetSentinel = time.Hour

// sentinelVotes has the latest vote of each Sentinel, by its id.
type sentinelVotes map[string]sentinelVote

type sentinelVote struct {
	sentinel string // its address
	master   string // the address that it names
	epoch    uint64 // of its configuration; each failover raises it
	heard    time.Time
	at       time.Time // it named this master then or later; zero if that is not known
}

// hear takes a message that a Sentinel has published after the time after: its host,
// port, id and epoch, then the master's name, host, port and epoch.
//
// When a network has healed, messages that a Sentinel sent before it changed its mind
// arrive late, all at once. So after a silence a message of the same epoch does not
// count, nor do those that come together with it. The next one at the usual interval
// counts.
func (v sentinelVotes) hear(text string, after time.Time) {
	words := strings.Split(text, ",")
	if len(words) != 8 {
		return
	}
	epoch, err := strconv.ParseUint(words[7], 10, 64)
	if err != nil {
		return
	}
	id, sentinel := words[2], net.JoinHostPort(words[0], words[1])
	vote := sentinelVote{sentinel, net.JoinHostPort(words[5], words[6]), epoch, after, after}
	last, known := v[id]
	if !known {
		v.replace(sentinel)
		if len(v) < maxSentinels {
			v[id] = vote
		}
		return
	}
	silence := after.Sub(last.heard)
	switch {
	case epoch < last.epoch && silence < renamedAfter:
		return
	case epoch == last.epoch && (silence < SentinelLag/2 || silence > 2*SentinelLag):
		vote.at = last.at
		if vote.master != last.master {
			vote.at = time.Time{}
		}
	}
	v[id] = vote
}

// replace deletes the vote of a Sentinel that has come back with another id.
func (v sentinelVotes) replace(sentinel string) {
	for id, vote := range v {
		if vote.sentinel == sentinel {
			delete(v, id)
		}
	}
}

// majority returns the master that most of all Sentinels name, in the highest epoch
// that any of them knows, or "". at is when a majority last named it; zero if that is
// not known.
func (v sentinelVotes) majority(now time.Time) (master string, at time.Time) {
	v.forget(now)
	var epoch uint64
	for _, vote := range v {
		epoch = max(epoch, vote.epoch)
	}
	times := make(map[string][]time.Time)
	for _, vote := range v {
		if vote.epoch == epoch {
			times[vote.master] = append(times[vote.master], vote.at)
		}
	}
	for master, at := range times {
		if len(at) > len(v)/2 {
			slices.SortFunc(at, func(a, b time.Time) int { return b.Compare(a) })
			return master, at[len(v)/2]
		}
	}
	return "", at
}

func (v sentinelVotes) forget(now time.Time) {
	var silent []string
	for id, vote := range v {
		if now.Sub(vote.heard) > forgetSentinel {
			silent = append(silent, id)
		}
	}
	if len(silent) < len(v)-len(v)/2 {
		for _, id := range silent {
			delete(v, id)
		}
	}
}
