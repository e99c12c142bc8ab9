package rabbitbus_test

import (
	"os"
	"sync"
	"testing"

	"github.com/heraldgo/herald/internal/test/servertest"
)

// The RabbitMQ that most tests share, because one takes long to start. It is
// of the first test that needs it, but lasts as long as the process.
var shared struct {
	sync.Mutex
	server   *servertest.Server
	cleanups []func()
}

func TestMain(m *testing.M) {
	code := m.Run()
	for i := len(shared.cleanups) - 1; i >= 0; i-- {
		shared.cleanups[i]()
	}
	os.Exit(code)
}

// A lasting is a testing.TB whose cleanups run when the process ends.
type lasting struct {
	testing.TB
}

func (l lasting) Cleanup(f func()) { shared.cleanups = append(shared.cleanups, f) }

func (l lasting) TempDir() string {
	dir, err := os.MkdirTemp("", "rabbitbus")
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// broker returns the shared server. A test must not stop it.
func broker(t testing.TB) *servertest.Server {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.server == nil {
		shared.server = servertest.RabbitMQ(lasting{t})
	}
	return shared.server
}
