//go:build !linux || 386

package herald

// wakeAt does nothing here.
func wakeAt(uintptr, int32) {}
