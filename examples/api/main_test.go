package main

import (
	"errors"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/coder/websocket"
)

// TestPrograms runs each program twice, and once with a wrong key.
func TestPrograms(t *testing.T) {
	rdb := redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr()})
	t.Cleanup(func() { rdb.Close() })
	const key = "a key for the test"
	handler, err := service(rdb, key)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	user, _, err := websocket.Dial(t.Context(), server.URL+"/ws?user=42", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { user.CloseNow() })
	messages := make(chan string, 10)
	go func() {
		defer close(messages)
		for {
			_, b, err := user.Read(t.Context())
			if err != nil {
				return
			}
			messages <- string(b)
		}
	}()
	next := func() string {
		select {
		case m := <-messages:
			return m
		case <-time.After(20 * time.Second):
			return "nothing within 20 s"
		}
	}
	for program, command := range map[string]string{"sh": "curl", "php": "php", "py": "python3", "mjs": "node"} {
		t.Run(program, func(t *testing.T) {
			if _, err := exec.LookPath(command); err != nil {
				if os.Getenv("CI") == "true" {
					t.Fatalf("send.%s was not run: %v", program, err)
				}
				t.Skipf("NOT RUN: send.%s: %v", program, err)
			}
			run := func(key string) ([]byte, error) {
				runner := command
				if program == "sh" {
					runner = "sh"
				}
				cmd := exec.CommandContext(t.Context(), runner, "send."+program)
				cmd.Env = append(os.Environ(), "HERALD_API="+server.URL+"/api", "HERALD_KEY="+key)
				return cmd.CombinedOutput()
			}
			for range 2 {
				if out, err := run(key); err != nil || !strings.Contains(string(out), "sent") {
					t.Fatalf("send.%s: %v: %s", program, err, out)
				}
			}
			if m := next(); !strings.HasPrefix(m, program+": ") {
				t.Errorf("the user got %q, want a message of send.%s", m, program)
			}
			var exit *exec.ExitError
			if out, err := run("a wrong key for this"); !errors.As(err, &exit) {
				t.Errorf("send.%s with a wrong key: %v: %s, want an exit status", program, err, out)
			}
		})
	}
	server.CloseClientConnections()
	user.CloseNow()
	for m := range messages {
		t.Errorf("came twice: %q", m)
	}
}
