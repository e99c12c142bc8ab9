package origin

import (
	"slices"
	"strings"
	"testing"
)

// The page's own host may connect, by scheme and TLS, and equal default ports
// make one origin (RFC 6454 section 6).
func TestOwnHost(t *testing.T) {
	for _, test := range []struct {
		origin, host string
		tls          bool
		want         bool
	}{
		{"http://test", "test", false, true},
		{"https://test", "test", false, true}, // behind a proxy that ends TLS
		{"https://TEST", "Test", true, true},
		{"http://test", "test", true, false},
		{"https://test", "test:443", true, true},
		{"https://test", "test:443", false, true},
		{"https://test:443", "test", true, true},
		{"http://test", "test:80", false, true},
		{"http://test:80", "test", false, true},
		{"https://test", "test:80", false, false},
		{"http://test", "test:443", false, false},
		{"http://test:443", "test:443", false, true},
		{"https://test:8443", "test:8443", true, true},
		{"https://test:8443", "test", true, false},
		{"https://test", "test:8443", true, false},
		{"https://[::1]", "[::1]:443", true, true},
		{"http://[::1]:3000", "[::1]:3000", false, true},
		{"http://[::1]:3000", "[::1]", false, false},
		{"capacitor://test", "test", false, false},
		{"null", "test", false, false},
		{"null", "", false, false},
		{"", "test", false, false},
		{"https://", "", false, false},
		{"test", "test", false, false},
		{"//test", "test", false, false},
		{"https://test.evil", "test", false, false},
		{"https://user@test", "test", false, true},
		{"%", "test", false, false},
	} {
		if Allowed(test.origin, test.host, test.tls, nil) != test.want {
			t.Errorf("%q on %q, TLS %v: not %v", test.origin, test.host, test.tls, test.want)
		}
	}
}

// Each pattern matches what it means, and no more.
func TestPatterns(t *testing.T) {
	for _, test := range []struct {
		pattern string
		yes, no []string
	}{
		{"*.example.com", []string{"http://a.example.com", "https://a.b.example.com", "https://a.example.com:443"}, []string{"https://example.com", "https://a.example.com:8443", "https://a.example.com.evil", "null"}},
		{"https://Good.example", []string{"https://good.example", "https://GOOD.example:443"}, []string{"http://good.example", "https://good.example:80"}},
		{"https://x:443", []string{"https://x", "https://x:443"}, []string{"http://x", "http://x:443", "https://x:8443"}},
		{"http://x:80", []string{"http://x"}, []string{"https://x"}},
		{"x:443", []string{"https://x", "http://x:443"}, []string{"http://x"}},
		{"https://x:80", []string{"https://x:80"}, []string{"https://x", "http://x"}},
		{"localhost:*", []string{"http://localhost:3000", "http://localhost", "https://localhost"}, []string{"http://localhost.evil:3000", "capacitor://localhost"}},
		{"localhost:300[0-9]", []string{"http://localhost:3007"}, []string{"http://localhost:3010", "http://localhost"}},
		{"http://[::1]:[0-9]*", []string{"http://[::1]:3000", "http://[::1]"}, []string{"https://[::1]:3000", "http://[::2]:3000"}},
		{"*://x", []string{"http://x", "https://x", "app://x"}, []string{"http://x:81"}},
		{"app[0-9].x", []string{"https://app7.x"}, []string{"https://appa.x"}},
		{"[::1]:3000", []string{"http://[::1]:3000"}, []string{"http://1:3000", "http://[::1]"}},
		{"http://[0:0::1]", []string{"http://[::1]"}, []string{"http://[::2]", "https://[::1]"}},
		{"[2001:DB8::1]:*", []string{"https://[2001:db8::1]", "http://[2001:db8::1]:8080"}, []string{"http://[2001:db8::2]"}},
		{`\[::1\]:3000`, []string{"http://[::1]:3000"}, nil},
		{"null", []string{"null"}, []string{"http://null", "file://", "https://x"}},
		{"file://", []string{"file://"}, []string{"null", "http://x", "file://x"}},
		{"capacitor://localhost", []string{"capacitor://localhost"}, []string{"http://localhost", "ionic://localhost"}},
		{"tauri://localhost", []string{"tauri://localhost"}, nil},
		{"app://.", []string{"app://."}, nil},
		{"chrome-extension://*", []string{"chrome-extension://abcdefghijklmnop"}, []string{"moz-extension://abc", "null"}},
		{"*://*", []string{"https://x", "file://"}, []string{"null"}},
		{"*", []string{"https://x", "http://x:81", "null", "file://", "app://x"}, []string{"%", ""}},
	} {
		p, err := Parse(test.pattern)
		if err != nil {
			t.Errorf("%q %v", test.pattern, err)
			continue
		}
		for _, origin := range slices.Concat(test.yes, test.no) {
			if want := slices.Contains(test.yes, origin); Allowed(origin, "node", true, []Pattern{p}) != want {
				t.Errorf("pattern %q, Origin %q: not %v", test.pattern, origin, want)
			}
		}
	}
}

// What can never match is refused, with the rule.
func TestPatternsRefused(t *testing.T) {
	for pattern, rule := range map[string]string{
		"":                       "name a host",
		"https://":               "name a host",
		"*://":                   "name a host",
		":3000":                  "name a host",
		"https://x/":             "path",
		"x/y":                    "path",
		"file:///":               "path",
		"[":                      "path.Match",
		"[a-":                    "path.Match",
		`x\`:                     "path.Match",
		"wss://x":                "scheme",
		"ht!p://x":               "scheme",
		"://x":                   "scheme",
		"x y":                    "host",
		"https://user@x":         "host",
		"https://a,https://b":    "path",
		"a,b":                    "host",
		"x?y=#":                  "host",
		"müller.example":         "xn--",
		"::1":                    "IPv6",
		"::1:3000":               "IPv6",
		"http://::1":             "IPv6",
		"[::1*]:3000":            "IPv6",
		"[fe80::1%eth0]":         "host",
		"[::ffff:192.0.2.1]":     "IPv6",
		"x:":                     "colon",
		"x:0":                    "port",
		"x:0443":                 "port",
		"x:65536":                "port",
		"https://x:http":         "port",
		"about:blank":            "port",
		"https://[2001:db8::1]:": "colon",
	} {
		if _, err := Parse(pattern); err == nil || !strings.HasPrefix(err.Error(), "must ") || !strings.Contains(err.Error(), rule) {
			t.Errorf("%q: %v, want a rule of its %s", pattern, err, rule)
		}
	}
}
