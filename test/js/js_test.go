// Package js runs the tests of the browser's client under Node.
package js

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"os/exec"
	"testing"

	"github.com/heraldgo/herald/internal/test/servertest"
)

const client = "../../client/js/"

func read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(client + name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The client and what is shipped of it do what PROTOCOL.md's vectors say.
func TestNode(t *testing.T) {
	if servertest.Find("node") == "" {
		servertest.Missing(t, "node", "nodejs")
	}
	for _, file := range []string{"herald.js", "herald.min.js"} {
		t.Run(file, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), "node", "--test", "test/vectors.test.js", "test/behaviour.test.js", "test/alive.test.js", "test/send.test.js", "test/react.test.js")
			cmd.Dir = client
			cmd.Env = append(os.Environ(), "HERALD_JS=../"+file)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// What is shipped was made of the source as it is, and is small.
func TestShipped(t *testing.T) {
	var about struct{ Source string }
	if err := json.Unmarshal(read(t, "package.json"), &about); err != nil {
		t.Fatal(err)
	}
	if sum := sha256.Sum256(append(read(t, "herald.js"), read(t, "frames.js")...)); hex.EncodeToString(sum[:]) != about.Source {
		t.Error("herald.min.js was not built of these herald.js and frames.js: npm run build")
	}
	var small bytes.Buffer
	w, _ := gzip.NewWriterLevel(&small, gzip.BestCompression)
	w.Write(read(t, "herald.min.js"))
	w.Close()
	if most := 3584; small.Len() > most {
		t.Errorf("gzipped it has %d bytes, more than %d", small.Len(), most)
	} else {
		t.Logf("gzipped it has %d bytes", small.Len())
	}
}
