package attacktest

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/heraldgo/herald/internal/test/wsraw"
)

// An attack is a way to make a node suffer. run bounds its means: a number of
// connections, or a few sockets that send without end.
type attack struct {
	name      string
	run       func(a *attacker)
	addresses int // the number of addresses that it uses in turn; 0 means one
	setting   setting
	header    http.Header // of the handshakes of hold
	told      string      // the answer that it must get from the node, if any, as in attacker.note
}

var attacks = []attack{
	{name: "none", run: func(*attacker) {}},
	{name: "long URLs kept", run: longURLs},
	{name: "never reads, the service amplifies", run: neverReads},
	{name: "one sender floods a room", run: floodsRoom},
	{name: "bad handshakes from four sockets", run: badHandshakes},
	{name: "bad handshakes from 200 addresses", run: badFromEverywhere, addresses: 200},
	{name: "slow Authenticate pending", run: slowAuthenticate},
	{name: "cross-site handshakes", run: crossSite},
	{name: "huge identities", run: hugeIdentities},
	{name: "50,000 groups a connection", run: manyGroups},
	{name: "refused after the upgrade, kept", run: refusedKept, setting: setting{RejectAfterUpgrade: true}},
	{name: "refused after the upgrade, flooding", run: refusedFlooding, setting: setting{RejectAfterUpgrade: true}},
	{name: "headers of 1 MB of tokens", run: tokenHeaders},
	{name: "comes and leaves, one account", run: oneComesAndLeaves},
	{name: "comes and leaves, fresh names", run: manyComeAndLeave},
	{name: "log flood", run: floodsLog},
	{name: "hangs up before the answer", run: hangsUp},
	{name: "control frames", run: controlFrames},
	{name: "close never answered", run: neverAnswersClose},
	{name: "close never answered, flooding", run: closedFlooding},
	{name: "messages never finished", run: neverFinishes},
	{name: "compressed bombs", run: bombs, setting: compressing, header: offer, told: "closed with 1009"},
	{name: "compressed, never finished", run: neverFinishesCompressed, setting: compressing, header: offer, told: "closed with 1009"},
	{name: "compressed, tiny", run: tinyCompressed, setting: compressing, header: offer},
	{name: "compressed, slow to inflate", run: slowToInflate, setting: compressing, header: offer},
	{name: "compressed, broken", run: brokenCompressed, setting: compressing, header: offer, told: "closed with 1007"},
	{name: "RSV1 out of place", run: misplacedRSV1, setting: compressing, header: offer, told: "closed with 1002"},
	{name: "RSV1 not agreed on", run: unagreedRSV1, setting: compressing, told: "closed with 1002"},
}

// user returns paths for hold: per connections share each user, and query is added
// to the path.
func user(name string, per int, query string) func(i int) string {
	return func(i int) string { return fmt.Sprintf("/?user=%s%d%s", name, i/per, query) }
}

// longURLs has 300 connections whose users' names are parts of a request of 1 MB.
func longURLs(a *attacker) {
	a.hold(300, user("long", 1, "&pad="+strings.Repeat("p", 1_000_000)), a.watch)
}

// neverReads has 50 connections for each of 8 accounts. They ask for as much as a
// queue holds, and read none of it.
func neverReads(a *attacker) {
	ask := wsraw.Frame{Fin: true, Opcode: wsraw.Binary, Payload: []byte{amplify}}
	a.hold(400, user("deaf", 50, ""), func(c *wsraw.Conn) {
		c.Conn.(wire).SetReadBuffer(4 << 10)
		for range 15 {
			if c.WriteFrames(ask) != nil {
				return
			}
		}
		for c.WriteFrames(wsraw.Frame{Fin: true, Opcode: wsraw.Pong}) == nil {
			time.Sleep(500 * time.Millisecond)
		}
	})
}

// floodsRoom sends messages as fast as MessageRate and as large as MaxMessageSize
// allow.
func floodsRoom(a *attacker) {
	message := make([]byte, 64<<10)
	message[0] = relay
	frame := wsraw.Frame{Fin: true, Opcode: wsraw.Binary, Payload: message}.Bytes()
	a.hold(1, user("loud", 1, ""), func(c *wsraw.Conn) {
		go a.watch(c)
		for next := time.Now(); ; next = next.Add(1100 * time.Microsecond) {
			time.Sleep(time.Until(next))
			a.rest()
			if _, err := c.Write(frame); err != nil {
				return
			}
		}
	})
}

// badHandshakes sends requests that are refused: half of them name no user, half
// ask for a version that does not exist.
func badHandshakes(a *attacker) {
	go a.pipeline(2, 64, func(int) string { return "/" }, nil)
	a.pipeline(2, 64, user("bad", 1, ""), http.Header{"Sec-Websocket-Version": {"12"}})
}

// badFromEverywhere does the same from so many addresses that none stands out.
func badFromEverywhere(a *attacker) {
	a.pipeline(200, 8, func(int) string { return "/" }, nil)
}

// slowAuthenticate keeps 3,000 requests in Authenticate.
func slowAuthenticate(a *attacker) {
	a.hold(3_000, user("slow", 1, "&slow"), a.watch)
}

// crossSite sends handshakes that come from another site's page.
func crossSite(a *attacker) {
	a.pipeline(4, 16, user("cross", 1, ""), http.Header{"Origin": {"https://evil.example"}})
}

// hugeIdentities has 20 connections, each with 500 KB of Meta and 10 groups.
func hugeIdentities(a *attacker) {
	meta := strings.Repeat("m", 500_000)
	a.hold(20, func(i int) string {
		var groups []string
		for g := range 10 {
			groups = append(groups, fmt.Sprintf("huge%d.%d", i, g))
		}
		return fmt.Sprintf("/?user=huge%d&groups=%s&meta=%s", i, strings.Join(groups, ","), meta)
	}, a.watch)
}

// manyGroups has 3 connections with 50,000 groups each.
func manyGroups(a *attacker) {
	var groups []string
	for g := range 50_000 {
		groups = append(groups, fmt.Sprintf("g%x", g))
	}
	a.hold(3, user("member", 1, "&groups="+strings.Join(groups, ",")), a.watch)
}

// refusedKept keeps 3,000 connections that were refused after the upgrade.
func refusedKept(a *attacker) {
	a.hold(3_000, func(int) string { return "/" }, a.watch)
}

// refusedFlooding sends without end on 4 connections that were refused.
func refusedFlooding(a *attacker) {
	a.hold(4, func(int) string { return "/" }, func(c *wsraw.Conn) { flood(a, c, large) })
}

var (
	large = wsraw.Frame{Fin: true, Opcode: wsraw.Binary, Payload: make([]byte, 64<<10)}.Bytes()
	pings = bytes.Repeat(wsraw.Frame{Fin: true, Opcode: wsraw.Ping, Payload: make([]byte, 125)}.Bytes(), 100)
)

// flood writes b over and over until the connection ends.
func flood(a *attacker, c *wsraw.Conn, b []byte) {
	go a.watch(c)
	for err := error(nil); err == nil; {
		_, err = c.Write(b)
		a.rest()
	}
}

// tokenHeaders has 4 connections whose handshakes carry 1 MB of tokens.
func tokenHeaders(a *attacker) {
	header := http.Header{"Connection": {strings.Repeat("a,", 500_000) + "Upgrade"}}
	a.again(4, func(i int) error {
		c, err := a.upgrade(user("token", 1, "")(i), header)
		if err == nil {
			c.Close()
		}
		return err
	})
}

func oneComesAndLeaves(a *attacker) {
	a.again(8, func(int) error { return comeAndLeave(a, "/?user=restless") })
}

func manyComeAndLeave(a *attacker) {
	a.again(8, func(int) error { return comeAndLeave(a, user("fresh", 1, "")(int(a.requests.Load()))) })
}

func comeAndLeave(a *attacker, path string) error {
	c, err := a.upgrade(path, nil)
	if err == nil {
		c.Close()
	}
	return err
}

// floodsLog makes the node log long names. Half of the clients are refused by
// OnConnect, half have an empty group, which is the service's mistake.
func floodsLog(a *attacker) {
	long := strings.Repeat("n", 8_000)
	a.again(4, func(i int) error {
		if i%2 == 0 {
			return comeAndLeave(a, "/?user=unwelcome"+long)
		}
		comeAndLeave(a, "/?groups=&user="+long)
		return nil
	})
}

// hangsUp sends requests and does not wait for the answers.
func hangsUp(a *attacker) {
	a.again(8, func(int) error {
		c, err := a.dial()
		if err != nil {
			return err
		}
		err = wsraw.WriteRequest(c, user("gone", 1, "")(int(a.requests.Add(1))), nil)
		c.Close()
		return err
	})
}

// controlFrames has 8 connections that ping as fast as they can.
func controlFrames(a *attacker) {
	a.hold(8, user("pinging", 1, ""), func(c *wsraw.Conn) { flood(a, c, pings) })
}

// neverAnswersClose has 2,000 connections of one account. The node has to close
// them, because they break the protocol, and they neither answer nor hang up.
func neverAnswersClose(a *attacker) {
	a.hold(2_000, user("rude", 2_000, ""), func(c *wsraw.Conn) {
		c.WriteFrames(wsraw.Frame{Fin: true, Opcode: 3})
		a.watch(c)
	})
}

// closedFlooding sends without end on 4 connections that the node closes.
func closedFlooding(a *attacker) {
	a.hold(4, user("stubborn", 1, ""), func(c *wsraw.Conn) {
		c.WriteFrames(wsraw.Frame{Fin: true, Opcode: 3})
		flood(a, c, large)
	})
}

// neverFinishes has 1,000 connections of 10 accounts, each with a message that
// lacks its last byte.
func neverFinishes(a *attacker) {
	a.hold(1_000, user("endless", 100, ""), func(c *wsraw.Conn) {
		if _, err := c.Write(large[:len(large)-1]); err == nil {
			a.watch(c)
		}
	})
}
