package deflate

import (
	"strconv"
	"strings"
)

// extension is the name of the extension (RFC 7692 section 7).
const extension = "permessage-deflate"

// answer is what every client that has agreed is told (RFC 7692 sections 7.1.1.1 and
// 7.1.1.2). A client need not have offered either parameter.
const answer = extension + "; server_no_context_takeover; client_no_context_takeover"

// Accept returns the answer to the first acceptable offer among the values of a
// request's Sec-WebSocket-Extensions, or "" if there is none. An offer is declined if
// it has a parameter that is unknown, comes twice or has an invalid value (RFC 7692
// section 7.1), or if it asks for a smaller window than the 32 KB that are used here.
// How the client compresses is left to the client.
func Accept(headers []string) string {
	s := scanner{strings.Join(headers, ",")}
	accepted := ""
	for s.skip(","); s.rest != ""; s.skip(",") {
		name := s.token()
		params, ok := s.params()
		if name == "" || !ok || s.rest != "" && s.rest[0] != ',' {
			return "" // the header is malformed
		}
		if accepted == "" && name == extension {
			accepted = judge(params)
		}
	}
	return accepted
}

// A param is a parameter of an offer.
type param struct {
	name, value string
	valued      bool
}

// judge returns the answer to an offer, or "".
func judge(params []param) string {
	accepted := answer
	seen := make(map[string]bool)
	for _, p := range params {
		if seen[p.name] {
			return ""
		}
		seen[p.name] = true
		switch p.name {
		case "server_no_context_takeover", "client_no_context_takeover":
			if p.valued {
				return ""
			}
		case "client_max_window_bits": // a hint if it has no value
			if p.valued && !windowBits(p.value) {
				return ""
			}
		case "server_max_window_bits":
			if p.value != "15" {
				return ""
			}
			accepted += "; server_max_window_bits=15"
		default:
			return ""
		}
	}
	return accepted
}

// windowBits reports whether s is a number from 8 to 15 without leading zeros (RFC 7692
// section 7.1.2).
func windowBits(s string) bool {
	n, err := strconv.ParseUint(s, 10, 8)
	return err == nil && n >= 8 && n <= 15 && s[0] != '0'
}

// A scanner takes a header apart (RFC 6455 section 9.1).
type scanner struct{ rest string }

// skip removes leading white space and characters of also.
func (s *scanner) skip(also string) { s.rest = strings.TrimLeft(s.rest, " \t"+also) }

// take removes c and the white space around it. It returns false if c does not come
// next.
func (s *scanner) take(c byte) bool {
	s.skip("")
	if s.rest == "" || s.rest[0] != c {
		return false
	}
	s.rest = s.rest[1:]
	s.skip("")
	return true
}

// token removes and returns a token (RFC 9110 section 5.6.2), or "".
func (s *scanner) token() (token string) {
	n := 0
	for n < len(s.rest) && tokenByte(s.rest[n]) {
		n++
	}
	token, s.rest = s.rest[:n], s.rest[n:]
	return token
}

func tokenByte(c byte) bool {
	letter := 'a' <= c|0x20 && c|0x20 <= 'z'
	return letter || '0' <= c && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}

// params removes and returns the parameters of an offer.
func (s *scanner) params() (params []param, ok bool) {
	for s.take(';') {
		p := param{name: s.token()}
		if p.valued = s.take('='); p.valued {
			p.value = s.value()
		}
		if p.name == "" || p.valued && p.value == "" {
			return nil, false
		}
		params = append(params, p)
	}
	return params, true
}

// value removes and returns a token, or the token in a quoted string. It returns ""
// if neither comes next.
func (s *scanner) value() string {
	if !strings.HasPrefix(s.rest, `"`) {
		return s.token()
	}
	var b []byte
	for i := 1; i < len(s.rest); i++ {
		c := s.rest[i]
		if c == '"' {
			s.rest = s.rest[i+1:]
			return string(b)
		}
		if c == '\\' && i+1 < len(s.rest) {
			i++
			c = s.rest[i]
		}
		if !tokenByte(c) {
			break
		}
		b = append(b, c)
	}
	return ""
}
