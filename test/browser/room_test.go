package browser

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/heraldgo/herald/internal/test/netproxy"
	"github.com/heraldgo/herald/internal/test/servertest"
)

// The page of docs/resume.md, in a browser: what was written before comes from the
// database, and what was written while its network was gone comes after, in order and
// without another look into the database.
func TestRoom(t *testing.T) {
	addr := servertest.FreeAddr(t)
	program := filepath.Join(t.TempDir(), "room")
	if out, err := exec.Command("go", "build", "-o", program, "github.com/heraldgo/herald/examples/room").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	cmd := exec.Command(program)
	cmd.Env, cmd.Stderr = append(os.Environ(), "ADDR="+addr), t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	post := func(i int) error {
		response, err := http.PostForm("http://"+addr+"/messages", url.Values{"text": {fmt.Sprint("message ", i)}})
		if err == nil {
			response.Body.Close()
		}
		return err
	}
	for end := time.Now().Add(patience); post(1) != nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the program does not answer")
		}
	}
	proxy := netproxy.Start(t, addr)
	p := open(t, browser(t), "http://"+proxy.Addr)
	shows := func(n int) {
		t.Helper()
		p.until(fmt.Sprintf(`[...list.children].map((item, i) => item.textContent === "message " + (i + 1)).join() === Array(%d).fill(true).join()`, n))
	}
	shows(1)
	post(2)
	shows(2)
	proxy.Cut()
	for i := range 20 {
		post(3 + i)
	}
	shows(22)
	p.until(`performance.getEntriesByType("resource").filter((e) => e.name.endsWith("/messages")).length === 1`)
	p.text(`form.elements.text.value = "message 23", form.requestSubmit()`)
	shows(23)
}
