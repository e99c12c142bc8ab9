package servertest

import (
	"os"
	"runtime"
	"testing"
)

// TestProc compares what /proc says about this process with what the process itself
// knows.
func TestProc(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("there is no /proc")
	}
	self := []int{os.Getpid()}
	before := OwnCPUTime(t)
	said := CPUTime(t, self...)
	after := OwnCPUTime(t)
	if said < before-2*clockTick || said > after+2*clockTick {
		t.Errorf("CPU time %v, expected %v to %v", said, before, after)
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	if rss := ResidentMemory(t, self...); rss < int64(m.HeapAlloc) {
		t.Errorf("resident memory of %d bytes, with %d in use", rss, m.HeapAlloc)
	}
	if both := ResidentMemory(t, append(self, self...)...); both < int64(2*m.HeapAlloc) {
		t.Errorf("resident memory of two processes: %d bytes, with %d in use in each", both, m.HeapAlloc)
	}
}
