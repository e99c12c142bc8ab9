package servertest

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// Prefer makes the test use a version of a server that Debian does not have.
// version is the name that .ci/fetch gives it, such as redis-6.2. Programs of that
// version are found before all others. If it was not fetched, the test is skipped,
// even under CI=true, because such a package cannot be expected everywhere.
func Prefer(t testing.TB, version string) {
	t.Helper()
	t.Setenv("PATH", fetched(t, version)+string(os.PathListSeparator)+os.Getenv("PATH"))
}

// fetched returns the directory into which .ci/fetch has put a version of a server,
// or skips the test.
func fetched(t testing.TB, version string) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	dir := filepath.Join(cache, "herald-test", version)
	if err == nil {
		_, err = os.Stat(filepath.Join(dir, "fetched"))
	}
	if err != nil {
		skip(t, fmt.Sprintf("MISSING: %s was not fetched, so %s did not run (sh .ci/fetch): %v", version, t.Name(), err))
	}
	return dir
}

// skip skips the test, and prints the message even if the logs of tests are not
// shown.
func skip(t testing.TB, message string) {
	t.Helper()
	fmt.Fprintln(os.Stderr, message)
	t.Skip(message)
}
