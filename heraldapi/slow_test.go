package heraldapi_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/heraldapi"
	"github.com/heraldgo/herald/heraldtest"
)

// A body that does not come to its end holds a slot for Timeout at most.
func TestSlowBody(t *testing.T) {
	const timeout = 300 * time.Millisecond
	cluster := heraldtest.NewCluster(t, 1, herald.Config{})
	api, err := heraldapi.New(heraldapi.Config{Hub: cluster.Nodes[0].Hub, Keys: []string{key}, MaxRequests: 1, Timeout: timeout})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(api)
	t.Cleanup(server.Close)
	// post sends a request whose body comes in part, and returns its answer.
	post := func(path, body string, length int) (status int, answer string, err error) {
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			return 0, "", err
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(30 * time.Second))
		fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", path, key, length, body)
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			return 0, "", err
		}
		defer response.Body.Close()
		b, err := io.ReadAll(response.Body)
		return response.StatusCode, string(b), err
	}
	if status, answer, err := post("/send", `{"to": {`, 100); err != nil || status != http.StatusBadRequest || !strings.Contains(answer, "within Timeout (300ms)") {
		t.Errorf("half a body: %d %s %v", status, answer, err)
	}

	// A call may take longer than its body.
	client := cluster.Connect(0, herald.Identity{User: "anna"})
	done := make(chan string, 1)
	go func() {
		body := `{"to": {"users": ["anna"]}, "text": "x", "timeout": 20}`
		status, answer, err := post("/deliver", body, len(body))
		done <- fmt.Sprint(status, answer, err)
	}()
	time.Sleep(2 * timeout)
	client.Expect("x")
	client.ExpectNothing() // it reads, and so answers the ping
	if got := <-done; !strings.Contains(got, `"receivedTotal":1`) {
		t.Errorf("deliver: %s", got)
	}
}
