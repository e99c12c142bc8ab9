// Package clock is a clock that never jumps.
package clock

import "time"

// started lies far in the past, so that Now is above 0 in a testing/synctest bubble,
// too, whose time begins in the year 2000.
var started = time.Now().Add(-50 * 365 * 24 * time.Hour)

// Now returns the time in nanoseconds, always above 0.
func Now() int64 { return int64(time.Since(started)) }
