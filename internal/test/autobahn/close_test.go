package autobahn

import (
	"fmt"
	"strings"

	"github.com/heraldgo/herald/internal/test/wsraw"
)

// closes returns section 7. Frames behind a close frame are ignored.
func closes() []testcase {
	ok := []uint16{normal}
	failed := []uint16{protocolError}
	close := wsraw.CloseFrame
	tests := []testcase{
		{"7.1.1", []step{send(text(hello), close(normal, "")).want(text(hello))}, ok},
		closing("7.1.2", ok, close(normal, ""), single(wsraw.Close, "")),
		closing("7.1.3", ok, close(normal, ""), ping("")),
		closing("7.1.4", ok, close(normal, ""), text(hello)),
		closing("7.1.5", ok, begun(text("1")), close(normal, ""), last("2")),
		// The suite leaves open whether the messages come before the close frame.
		closing("7.1.6", nil, text(string(payload[:256<<10])), text(hello), close(normal, ""), ping("")),

		closing("7.3.1", []uint16{normal, noCode}, single(wsraw.Close, "")),
		closing("7.3.2", failed, single(wsraw.Close, "a")),
		closing("7.3.3", ok, close(normal, "")),
		closing("7.3.4", ok, close(normal, hello)),
		closing("7.3.5", ok, close(normal, strings.Repeat("*", 123))),
		closing("7.3.6", failed, close(normal, strings.Repeat("*", 124))),
		closing("7.5.1", []uint16{invalidPayload, protocolError}, close(normal, kosme+"\xed\xa0\x80edited")),
	}
	for i, code := range []uint16{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999} {
		tests = append(tests, closing(fmt.Sprintf("7.7.%d", 1+i), []uint16{normal, code}, close(code, "")))
	}
	for i, code := range []uint16{0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999} {
		tests = append(tests, closing(fmt.Sprintf("7.9.%d", 1+i), failed, close(code, "")))
	}
	// These codes have no meaning. The suite leaves the answer open.
	return append(tests, closing("7.13.1", nil, close(5000, "")), closing("7.13.2", nil, close(65535, "")))
}
