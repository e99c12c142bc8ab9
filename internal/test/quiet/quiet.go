// Package quiet sets how long a Conn must be quiet to be parked, for the tests that
// import it: HERALD_QUIET=1ms go test ...
package quiet

import (
	"fmt"
	"os"
	"time"

	"github.com/heraldgo/herald/internal/netpoll"
)

func init() {
	value := os.Getenv("HERALD_QUIET")
	if value == "" {
		return
	}
	d, err := time.ParseDuration(value)
	if err != nil {
		panic(fmt.Sprintf("HERALD_QUIET: %v", err))
	}
	netpoll.Quiet = d
}
