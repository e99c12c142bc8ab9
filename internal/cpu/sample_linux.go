package cpu

import (
	"bytes"
	"os"
	"strconv"
	"syscall"
	"time"
)

// take reads from /proc/uptime (proc_uptime(5)) how long processors were idle: its
// second number is the sum over all of them, in seconds.
func take(now time.Time) sample {
	s := sample{at: now}
	text, err := os.ReadFile("/proc/uptime")
	if err == nil {
		s.idle = idle(text)
	}
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err == nil {
		s.used = time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	}
	return s
}

// idle returns the idle time in the text of /proc/uptime, or 0 if the text has
// another form.
func idle(uptime []byte) time.Duration {
	_, text, _ := bytes.Cut(bytes.TrimSpace(uptime), []byte(" "))
	seconds, err := strconv.ParseFloat(string(text), 64)
	if err != nil {
		return 0
	}
	return time.Duration(seconds * float64(time.Second))
}
