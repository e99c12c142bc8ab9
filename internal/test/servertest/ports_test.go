package servertest

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
)

// TestFreeAddr lets four processes ask for addresses concurrently. No address is
// returned twice.
func TestFreeAddr(t *testing.T) {
	const child, many = "HERALD_FREE_ADDR_CHILD", 3 * blockSize
	if os.Getenv(child) != "" {
		for range many {
			fmt.Println("addr", FreeAddr(t))
		}
		os.Stdout.Sync()
		os.Stdin.Read(make([]byte, 1)) // the claims live as long as the process
		return
	}
	seen := make(map[string]bool)
	for range many {
		seen[FreeAddr(t)] = true
	}
	var children []*exec.Cmd
	for range 3 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestFreeAddr$")
		cmd.Env = append(os.Environ(), child+"=1")
		stdin, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		children = append(children, cmd)
		defer cmd.Wait()
		defer stdin.Close()
		for range many {
			var word, addr string
			if _, err := fmt.Fscanln(stdout, &word, &addr); err != nil || word != "addr" {
				t.Fatalf("a child printed %q %q: %v", word, addr, err)
			}
			seen[addr] = true
		}
	}
	if want := many * (1 + len(children)); len(seen) != want {
		t.Errorf("%d addresses, want %d", len(seen), want)
	}
}
