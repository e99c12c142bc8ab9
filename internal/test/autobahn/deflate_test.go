package autobahn

import (
	"bytes"
	"cmp"
	"compress/flate"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/heraldgo/herald/internal/test/wsraw"
)

// A deflateCase is a case of section 12 or 13: compressed messages, each sent after
// the echo of the one before. The suite sends a thousand, from files that are not
// included here. Similar data stands for them.
type deflateCase struct {
	number   string
	offers   string
	agreed   bool // otherwise the suite calls the case unimplemented, and messages go uncompressed
	data     string
	opcode   byte
	size     int // of a message
	fragment int // the most bytes in a frame; 0 means one frame for all
}

// deflateSizes has, for each case, the size of the messages and of their fragments.
var deflateSizes = [...][2]int{
	{16, 0}, {64, 0}, {256, 0}, {1 << 10, 0}, {4 << 10, 0}, {8 << 10, 0}, {16 << 10, 0}, {32 << 10, 0}, {64 << 10, 0}, {128 << 10, 0},
	{8 << 10, 256}, {16 << 10, 256}, {32 << 10, 256}, {64 << 10, 256}, {128 << 10, 256},
	{128 << 10, 1 << 10}, {128 << 10, 4 << 10}, {128 << 10, 32 << 10},
}

// deflateCases returns section 12, with five kinds of data, and 13, with seven
// kinds of offers.
func deflateCases() (all []deflateCase) {
	const may = "; client_no_context_takeover; client_max_window_bits" // in all of the suite's offers
	add := func(section string, offers string, agreed bool, data string, opcode byte) {
		for i, s := range deflateSizes {
			all = append(all, deflateCase{fmt.Sprintf("%s.%d", section, i+1), offers, agreed, data, opcode, s[0], s[1]})
		}
	}
	data := deflateData()
	for i, d := range data {
		add(fmt.Sprintf("12.%d", i+1), "permessage-deflate"+may, true, d.bytes, d.opcode)
	}
	for i, o := range []struct {
		offers string
		agreed bool
	}{
		{"permessage-deflate" + may, true},
		{"permessage-deflate; server_no_context_takeover" + may, true},
		{"permessage-deflate; server_max_window_bits=9" + may, false},
		{"permessage-deflate; server_max_window_bits=15" + may, true},
		{"permessage-deflate; server_no_context_takeover; server_max_window_bits=9" + may, false},
		{"permessage-deflate; server_no_context_takeover; server_max_window_bits=15" + may, true},
		{"permessage-deflate; server_no_context_takeover; server_max_window_bits=9" + may +
			", permessage-deflate; server_no_context_takeover" + may + ", permessage-deflate" + may, true},
	} {
		add(fmt.Sprintf("13.%d", i+1), o.offers, o.agreed, data[0].bytes, data[0].opcode)
	}
	return all
}

type deflateDatum struct {
	bytes  string
	opcode byte
}

// deflateData returns JSON, a picture, German text, HTML, and data that hardly
// compresses. All but the last are as large as the suite's files.
func deflateData() []deflateDatum {
	random := rand.New(rand.NewPCG(12, 13))
	repeat := func(size int, more func(b *strings.Builder)) string {
		var b strings.Builder
		for b.Len() < size {
			more(&b)
		}
		return b.String()[:size]
	}
	words := strings.Fields("Habe nun ach Philosophie Juristerei und Medizin durchaus studiert mit hei\xdfem Bem\xfchn da steh ich als wie zuvor")
	return []deflateDatum{
		{repeat(194_056, func(b *strings.Builder) {
			fmt.Fprintf(b, `{"id": %d, "tags": ["%x", "%x"], "on": %t, "price": %.2f}, `, random.IntN(1e6), random.Uint32(), random.Uint32(), random.IntN(2) > 0, 100*random.Float64())
		}), wsraw.Text},
		{repeat(263_222, func(b *strings.Builder) { b.WriteByte(byte(128 + b.Len()%512/8 + b.Len()/4096 + random.IntN(4))) }), wsraw.Binary},
		{repeat(222_218, func(b *strings.Builder) { b.WriteString(words[random.IntN(len(words))] + " ") }), wsraw.Binary},
		{repeat(263_527, func(b *strings.Builder) {
			fmt.Fprintf(b, "<tr class=\"row\"><td>%d</td><td><a href=\"/page/%x\">a link</a></td></tr>\n", random.IntN(1e4), random.Uint32())
		}), wsraw.Text},
		{repeat(300_000, func(b *strings.Builder) { b.WriteByte(byte(random.Uint32())) }), wsraw.Binary},
	}
}

// TestDeflate runs sections 12 and 13 with three messages in each case, or with as
// many as HERALD_AUTOBAHN_MESSAGES says.
func TestDeflate(t *testing.T) {
	messages, err := strconv.Atoi(cmp.Or(os.Getenv("HERALD_AUTOBAHN_MESSAGES"), "3"))
	if err != nil {
		t.Fatal(err)
	}
	cases := deflateCases()
	if len(cases) != 216 {
		t.Errorf("%d cases", len(cases))
	}
	addr := echoServer(t)
	t.Run("cases", func(t *testing.T) { // the server outlives them
		for _, c := range cases {
			t.Run(c.number, func(t *testing.T) {
				t.Parallel()
				c.run(t, addr, messages)
			})
		}
	})
}

func (c deflateCase) run(t *testing.T, addr string, messages int) {
	tcp, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	ws, response, err := wsraw.Handshake(tcp, "/", http.Header{"Sec-Websocket-Extensions": {c.offers}})
	if err != nil {
		t.Fatal(err)
	}
	if got := response.Header.Get("Sec-WebSocket-Extensions"); (got != "") != c.agreed || c.agreed && !strings.Contains(got, "client_no_context_takeover") {
		t.Fatalf("%q is answered with %q", c.offers, got)
	}
	ws.Compressed = c.agreed
	compressed := 0
	var out bytes.Buffer
	w, _ := flate.NewWriter(&out, flate.DefaultCompression)
	for i := range messages {
		want := c.data[i*c.size%len(c.data):]
		want = (want + c.data)[:c.size]
		payload := []byte(want)
		if c.agreed {
			out.Reset()
			w.Reset(&out)
			io.WriteString(w, want)
			w.Flush()
			payload = bytes.TrimSuffix(bytes.Clone(out.Bytes()), []byte("\x00\x00\xff\xff"))
		}
		frames := fragments(wsraw.Frame{Opcode: c.opcode, Payload: payload}, cmp.Or(c.fragment, len(payload)))
		if c.agreed {
			frames[0].RSV = 4
		}
		if err := ws.WriteFrames(frames...); err != nil {
			t.Fatal(err)
		}
		f, err := ws.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if f.RSV != 0 {
			compressed++
			if f.Payload, err = wsraw.Inflate(f.Payload); err != nil {
				t.Fatal(err)
			}
		}
		if f.Opcode != c.opcode || string(f.Payload) != want {
			t.Fatalf("message %d of %d bytes comes back as %s", i, len(want), show(f))
		}
	}
	if some := compressed > 0; some != (c.agreed && c.size > 512 && !strings.HasPrefix(c.number, "12.5")) {
		t.Errorf("%d of %d messages came back compressed", compressed, messages)
	}
	ws.WriteFrames(wsraw.CloseFrame(normal, ""))
	if closed, err := ws.ReadClose(); err != nil || closed.Code != normal {
		t.Errorf("closed with %v, %v", closed, err)
	}
}
