package main

import (
	"context"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/coder/websocket"

	"github.com/heraldgo/herald/internal/test/overlay"
	"github.com/heraldgo/herald/internal/test/servertest"
)

// patience is how long the test waits for what must come.
const patience = 30 * time.Second

// start starts the program, at another address than its own, which may be taken.
func start(t *testing.T, redis string) *servertest.Server {
	t.Helper()
	addr := servertest.FreeAddr(t)
	program := filepath.Join(t.TempDir(), "hello")
	edit := overlay.Edit{"examples/hello/main.go", `":8080"`, `"` + addr + `"`}
	build := exec.Command("go", "build", "-overlay", overlay.Make(t, "../..", []overlay.Edit{edit}), "-o", program, ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return servertest.Start(t, servertest.Command{
		Program: program, Env: []string{"REDIS=" + redis}, Addr: addr,
		Ready: func() error { return servertest.Dial(addr) }, Patience: patience,
	})
}

// With a Redis, what one device of a user says reaches the user's other device on another
// node, and nobody else. Without one a node is alone.
func TestHello(t *testing.T) {
	redis := miniredis.RunT(t).Addr()
	one, two, alone := start(t, redis), start(t, redis), start(t, "")
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	dial := func(node *servertest.Server, user string) *websocket.Conn {
		ws, _, err := websocket.Dial(ctx, "ws://"+node.Addr+"/ws?user="+user, nil)
		if err != nil {
			t.Fatalf("%v\n%s", err, node.Log())
		}
		t.Cleanup(func() { ws.CloseNow() })
		return ws
	}
	say := func(ws *websocket.Conn, text string) {
		if err := ws.Write(ctx, websocket.MessageText, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(ws *websocket.Conn, want string) {
		t.Helper()
		if _, got, err := ws.Read(ctx); err != nil || string(got) != want {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
	}
	phone, laptop, other := dial(one, "42"), dial(two, "42"), dial(two, "7")
	apart := dial(alone, "42")
	say(phone, "from the phone")
	for _, ws := range []*websocket.Conn{phone, laptop} {
		expect(ws, "from the phone")
	}
	say(other, "to myself")
	expect(other, "to myself")
	say(apart, "alone")
	expect(apart, "alone")
}
