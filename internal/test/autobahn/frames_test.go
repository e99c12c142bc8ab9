package autobahn

import (
	"fmt"
	"slices"
	"strings"

	"github.com/heraldgo/herald/internal/test/wsraw"
)

var cases = slices.Concat(framing, pings, reservedBits, opcodes, fragmentation, utf8Cases(), closes(), limits())

const (
	hello  = "Hello, world!"
	bytes8 = "\x00\xff\xfe\xfd\xfc\xfb\x00\xff"
)

// echoed is a message that the server sends back.
func echoed(f wsraw.Frame) step { return send(f).want(f) }

// Section 1: messages of sizes around those at which the length takes more bytes.
var framing = []testcase{
	honest("1.1.1", echoed(text(""))),
	honest("1.1.2", echoed(text(strings.Repeat("*", 125)))),
	honest("1.1.3", echoed(text(strings.Repeat("*", 126)))),
	honest("1.1.4", echoed(text(strings.Repeat("*", 127)))),
	honest("1.1.5", echoed(text(strings.Repeat("*", 128)))),
	honest("1.1.6", echoed(text(strings.Repeat("*", 65535)))),
	honest("1.1.7", echoed(text(strings.Repeat("*", 65536)))),
	honest("1.1.8", echoed(text(strings.Repeat("*", 65536))).chopped(997)),

	honest("1.2.1", echoed(bin(""))),
	honest("1.2.2", echoed(bin(strings.Repeat("\xfe", 125)))),
	honest("1.2.3", echoed(bin(strings.Repeat("\xfe", 126)))),
	honest("1.2.4", echoed(bin(strings.Repeat("\xfe", 127)))),
	honest("1.2.5", echoed(bin(strings.Repeat("\xfe", 128)))),
	honest("1.2.6", echoed(bin(strings.Repeat("\xfe", 65535)))),
	honest("1.2.7", echoed(bin(strings.Repeat("\xfe", 65536)))),
	honest("1.2.8", echoed(bin(strings.Repeat("\xfe", 65536))).chopped(997)),
}

// Section 2: pings. Unsolicited pongs are not answered.
var pings = []testcase{
	honest("2.1", send(ping("")).want(pong(""))),
	honest("2.2", send(ping(hello)).want(pong(hello))),
	honest("2.3", send(ping(bytes8)).want(pong(bytes8))),
	honest("2.4", send(ping(strings.Repeat("\xfe", 125))).want(pong(strings.Repeat("\xfe", 125)))),
	broken("2.5", protocolError, send(ping(strings.Repeat("\xfe", 126)))),
	honest("2.6", send(ping(strings.Repeat("\xfe", 125))).bytewise().want(pong(strings.Repeat("\xfe", 125)))),
	honest("2.7", send(pong(""))),
	honest("2.8", send(pong("unsolicited"))),
	honest("2.9", send(pong("unsolicited"), ping("mine")).want(pong("mine"))),
	honest("2.10", send(ten(ping)...).framewise().want(ten(pong)...)),
	honest("2.11", send(ten(ping)...).bytewise().want(ten(pong)...)),
}

// ten returns ten frames with different payloads.
func ten(frame func(string) wsraw.Frame) (frames []wsraw.Frame) {
	for i := range 10 {
		frames = append(frames, frame(fmt.Sprintf("payload-%d", i)))
	}
	return frames
}

// Section 3: reserved bits that no extension has defined.
var reservedBits = []testcase{
	broken("3.1", protocolError, send(reserved(1, text(hello)))),
	broken("3.2", protocolError, send(text(hello), reserved(2, text(hello)), ping("")).want(text(hello))),
	broken("3.3", protocolError, send(text(hello), reserved(3, text(hello)), ping("")).framewise().want(text(hello))),
	broken("3.4", protocolError, send(text(hello), reserved(4, text(hello)), ping("")).bytewise().want(text(hello))),
	broken("3.5", protocolError, send(reserved(5, bin(bytes8)))),
	broken("3.6", protocolError, send(reserved(6, ping(hello)))),
	broken("3.7", protocolError, send(reserved(7, single(wsraw.Close, "")))),
}

// Section 4: reserved opcodes.
var opcodes = []testcase{
	broken("4.1.1", protocolError, send(single(3, ""))),
	broken("4.1.2", protocolError, send(single(4, "payload"))),
	broken("4.1.3", protocolError, send(text(hello), single(5, ""), ping("")).want(text(hello))),
	broken("4.1.4", protocolError, send(text(hello), single(6, hello), ping("")).want(text(hello))),
	broken("4.1.5", protocolError, send(text(hello), single(7, hello), ping("")).bytewise().want(text(hello))),

	broken("4.2.1", protocolError, send(single(11, ""))),
	broken("4.2.2", protocolError, send(single(12, "payload"))),
	broken("4.2.3", protocolError, send(text(hello), single(13, ""), ping("")).want(text(hello))),
	broken("4.2.4", protocolError, send(text(hello), single(14, hello), ping("")).want(text(hello))),
	broken("4.2.5", protocolError, send(text(hello), single(15, hello), ping("")).bytewise().want(text(hello))),
}

// Section 5: fragmentation.
var fragmentation = []testcase{
	broken("5.1", protocolError, send(begun(ping("1")), last("2"))),
	broken("5.2", protocolError, send(begun(pong("1")), last("2"))),
	honest("5.3", send(begun(text("1")), last("2")).want(text("12"))),
	honest("5.4", send(begun(text("1")), last("2")).framewise().want(text("12"))),
	honest("5.5", send(begun(text("1")), last("2")).bytewise().want(text("12"))),
	honest("5.6", send(begun(text("1")), ping("p"), last("2")).want(pong("p"), text("12"))),
	honest("5.7", send(begun(text("1")), ping("p"), last("2")).framewise().want(pong("p"), text("12"))),
	honest("5.8", send(begun(text("1")), ping("p"), last("2")).bytewise().want(pong("p"), text("12"))),

	// Continuations without a message.
	broken("5.9", protocolError, send(last("1"), text(hello))),
	broken("5.10", protocolError, send(last("1"), text(hello)).framewise()),
	broken("5.11", protocolError, send(last("1"), text(hello)).bytewise()),
	broken("5.12", protocolError, send(more("1"), text(hello))),
	broken("5.13", protocolError, send(more("1"), text(hello)).framewise()),
	broken("5.14", protocolError, send(more("1"), text(hello)).bytewise()),
	broken("5.15", protocolError, send(begun(text("1")), last("2"), more("3"), text("4")).want(text("12"))),
	broken("5.16", protocolError, send(more("1"), begun(text("2")), last("3"), more("1"), begun(text("2")), last("3"))),
	broken("5.17", protocolError, send(last("1"), begun(text("2")), last("3"), last("1"), begun(text("2")), last("3"))),

	broken("5.18", protocolError, send(begun(text("1")), text("2"))),
	honest("5.19",
		send(begun(text("1")), more("2"), ping("first")).want(pong("first")),
		send(more("3"), more("4"), ping("second"), last("5")).want(pong("second"), text("12345"))),
	honest("5.20",
		send(begun(text("1")), more("2"), ping("first")).framewise().want(pong("first")),
		send(more("3"), more("4"), ping("second"), last("5")).framewise().want(pong("second"), text("12345"))),
}
