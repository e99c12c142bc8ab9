package deflate

import "testing"

func TestAccept(t *testing.T) {
	const (
		yes  = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
		bits = yes + "; server_max_window_bits=15"
	)
	for _, test := range []struct {
		want    string
		headers []string
	}{
		{"", nil},
		{"", []string{""}},
		{"", []string{" , "}},
		{"", []string{"x-webkit-deflate-frame"}},
		{"", []string{"Permessage-Deflate"}},

		// What clients offer.
		{yes, []string{"permessage-deflate"}},
		{yes, []string{"permessage-deflate; client_max_window_bits"}}, // browsers
		{yes, []string{"permessage-deflate; server_no_context_takeover; client_no_context_takeover"}},
		{yes, []string{" permessage-deflate ;server_no_context_takeover; client_no_context_takeover ;client_max_window_bits\t= 10 "}},
		{yes, []string{`permessage-deflate; client_max_window_bits="8"`}},
		{yes, []string{`permessage-deflate; client_max_window_bits="\1\5"`}},
		{bits, []string{"permessage-deflate; server_max_window_bits=15"}},
		{bits, []string{`permessage-deflate; server_max_window_bits="15"; client_max_window_bits=9`}},

		// Several offers, in one header or more.
		{yes, []string{"permessage-deflate; server_max_window_bits=10, permessage-deflate"}},
		{yes, []string{"permessage-deflate; server_max_window_bits=10", "permessage-deflate"}},
		{yes, []string{"permessage-deflate, permessage-deflate; server_max_window_bits=15"}},
		{bits, []string{"permessage-deflate; server_max_window_bits=15, permessage-deflate"}},
		{yes, []string{`x; a="b", y ; c, permessage-deflate`}},
		{yes, []string{",, permessage-deflate,"}},
		{yes, []string{"azAZ09!#$%&'*+-.^_`|~, permessage-deflate"}},

		// What cannot be taken.
		{"", []string{"permessage-deflate; server_max_window_bits=14"}},
		{"", []string{"permessage-deflate; server_max_window_bits=16"}},
		{"", []string{"permessage-deflate; server_max_window_bits=015"}},
		{"", []string{"permessage-deflate; server_max_window_bits"}},
		{"", []string{"permessage-deflate; client_max_window_bits=7"}},
		{"", []string{"permessage-deflate; client_max_window_bits=16"}},
		{"", []string{"permessage-deflate; client_max_window_bits=08"}},
		{"", []string{"permessage-deflate; client_max_window_bits=+9"}},
		{"", []string{"permessage-deflate; client_max_window_bits=x"}},
		{"", []string{"permessage-deflate; server_no_context_takeover=1"}},
		{"", []string{"permessage-deflate; client_no_context_takeover=true"}},
		{"", []string{"permessage-deflate; client_no_context_takeover; client_no_context_takeover"}},
		{"", []string{"permessage-deflate; client_max_window_bits; client_max_window_bits=15"}},
		{"", []string{"permessage-deflate; mux"}},
		{"", []string{"permessage-deflate; Server_no_context_takeover"}},

		// What is malformed takes all else with it (RFC 6455 section 9.1).
		{"", []string{"permessage-deflate;"}},
		{"", []string{"permessage-deflate; client_max_window_bits="}},
		{"", []string{`permessage-deflate; client_max_window_bits=""`}},
		{"", []string{`permessage-deflate; client_max_window_bits="15`}},
		{"", []string{`permessage-deflate; client_max_window_bits="1 5"`}},
		{"", []string{`permessage-deflate; client_max_window_bits="15"0`}},
		{"", []string{`permessage-deflate; client_max_window_bits="15\`}},
		{"", []string{"permessage-deflate client_max_window_bits"}},
		{"", []string{"permessage-deflate, ;"}},
		{"", []string{"permessage-deflate, a b"}},
		{"", []string{"permessage-deflate, =x"}},
		{"", []string{"permessage-deflate; =15"}},
		{"", []string{"permessage-deflate\x00"}},
		{"", []string{"permessage-deflate, @"}},
		{"", []string{"permessage-deflate, {"}},
		{"", []string{"permessage-deflate, /"}},
		{"", []string{"permessage-deflate, :"}},
	} {
		if got := Accept(test.headers); got != test.want {
			// What stumbles over this one may not come to an end with another.
			t.Fatalf("%q is answered with %q, want %q", test.headers, got, test.want)
		}
	}
}

// FuzzAccept looks for a header that it does not come to an end with.
func FuzzAccept(f *testing.F) {
	f.Add(`x; a="\"b", permessage-deflate; client_max_window_bits=15; server_max_window_bits="15"`)
	f.Fuzz(func(t *testing.T, header string) {
		if got := Accept([]string{header}); got != "" && Accept([]string{got}) == "" {
			t.Errorf("%q is answered with %q", header, got)
		}
	})
}
