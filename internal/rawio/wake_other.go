//go:build !linux || 386

package rawio

// WakeAt does nothing here.
func WakeAt(uintptr, int32) {}
