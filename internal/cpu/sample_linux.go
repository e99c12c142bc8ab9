package cpu

import (
	"bytes"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// take reads from /proc/uptime (proc_uptime(5)) how long processors were idle: its
// second number is the sum over all of them, in seconds.
func take(now time.Time) sample {
	s := sample{at: now, quota: quota(os.DirFS("/"))}
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

// quota returns how many processors the process' cgroup may use on average
// (https://docs.kernel.org/admin-guide/cgroup-v2.html, cpu.max). It returns 0 if the
// cgroup has no quota, is not of version 2, or is not mounted below /sys/fs/cgroup.
// Quotas of the cgroups above it are not read: a container does not see them.
func quota(root fs.FS) float64 {
	own, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(own)) {
		if dir, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			text, err := fs.ReadFile(root, path.Join("sys/fs/cgroup", dir, "cpu.max"))
			if err != nil {
				return 0
			}
			return processors(string(text))
		}
	}
	return 0
}

// processors reads the text of cpu.max, a quota and its period, as a number of
// processors. It returns 0 if there is no quota, or the text has another form.
func processors(quota string) float64 {
	text, of, _ := strings.Cut(strings.TrimSpace(quota), " ")
	most, err := strconv.ParseUint(text, 10, 64) // "max" is no number
	period, err2 := strconv.ParseUint(of, 10, 64)
	if err != nil || err2 != nil || period == 0 {
		return 0
	}
	return float64(most) / float64(period)
}
