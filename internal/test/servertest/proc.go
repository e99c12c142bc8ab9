package servertest

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// ResidentMemory returns the bytes of memory that the processes use together, or 0
// if there is no /proc.
func ResidentMemory(t testing.TB, pids ...int) (total int64) {
	for _, pid := range pids {
		status := procFile(t, pid, "status")
		_, rest, ok := strings.Cut(status, "\nVmRSS:")
		if !ok {
			continue
		}
		kilobytes, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
		if err != nil {
			t.Errorf("VmRSS of process %d: %v", pid, err)
		}
		total += kilobytes << 10
	}
	return total
}

// clockTick is the unit of times in /proc. The kernel shows all programs 100 ticks
// a second.
const clockTick = 10 * time.Millisecond

// CPUTime returns the CPU time that the processes have used, in all threads and in
// the kernel (proc(5): fields 14 and 15 of stat). It is 0 if there is no /proc.
func CPUTime(t testing.TB, pids ...int) (total time.Duration) {
	for _, pid := range pids {
		stat := procFile(t, pid, "stat")
		// The second field is a name in parentheses, which may contain anything.
		fields := strings.Fields(stat[strings.LastIndex(stat, ")")+1:])
		if len(fields) < 13 {
			continue
		}
		for _, f := range fields[11:13] {
			ticks, err := strconv.ParseInt(f, 10, 64)
			if err != nil {
				t.Errorf("times of process %d: %v", pid, err)
			}
			total += time.Duration(ticks) * clockTick
		}
	}
	return total
}

// procFile returns the content of a file in /proc, or nothing if there is no such
// process.
func procFile(t testing.TB, pid int, name string) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name))
	if err != nil {
		t.Logf("%s of process %d: %v", name, pid, err)
	}
	return string(b)
}

// OwnCPUTime returns the CPU time that this process has used.
func OwnCPUTime(t testing.TB) time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		t.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
