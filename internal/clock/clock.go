// Package clock is a clock that never jumps.
package clock

import "time"

// started lies far back, so that the clock is above 0 in a testing/synctest
// bubble too, where the time begins in the year 2000.
var started = time.Now().Add(-50 * 365 * 24 * time.Hour)

// Now returns nanoseconds, always above 0.
func Now() int64 { return int64(time.Since(started)) }
