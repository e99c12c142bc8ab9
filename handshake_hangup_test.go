package herald

import (
	"bytes"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/heraldgo/herald/internal/test/wsraw"
)

// Who hangs up before the 101 makes no line in the log of net/http, which no rate
// limits: nobody is there to be answered.
func TestHangUpBeforeTheAnswer(t *testing.T) {
	h := newHub(t, Config{
		Authenticate: func(r *http.Request) (Identity, error) {
			<-r.Context().Done() // the client has gone
			return fromQuery(r)
		},
	})
	var mu sync.Mutex
	var said bytes.Buffer
	server := httptest.NewUnstartedServer(h)
	server.Config.ErrorLog = log.New(writerFunc(func(p []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return said.Write(p)
	}), "", 0)
	server.Start()
	defer server.Close()
	for range 10 {
		c, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if err := wsraw.WriteRequest(c, "/", nil); err != nil {
			t.Fatal(err)
		}
		wsraw.Reset(c)
	}
	await(t, "the end of the handshakes", func() bool { return h.Stats().Rejected == 10 })
	mu.Lock()
	defer mu.Unlock()
	if said.Len() > 0 {
		t.Errorf("net/http logged:\n%s", said.String())
	}
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
