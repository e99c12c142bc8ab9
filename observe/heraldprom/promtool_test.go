package heraldprom

import (
	"bytes"
	"os/exec"
	"testing"

	"github.com/prometheus/common/expfmt"

	"github.com/heraldgo/herald/internal/test/servertest"
)

// promtool runs promtool, and fails the test unless it is content.
func promtool(t *testing.T, stdin []byte, args ...string) {
	t.Helper()
	path := servertest.Find("promtool")
	if path == "" {
		servertest.Missing(t, "promtool", "prometheus")
	}
	cmd := exec.Command(path, args...)
	cmd.Stdin = bytes.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool %v: %v\n%s", args, err, out)
	}
}

// Names and help are as Prometheus wishes.
func TestCheckMetrics(t *testing.T) {
	var page bytes.Buffer
	for _, f := range gather(t, full()) {
		if _, err := expfmt.MetricFamilyToText(&page, f); err != nil {
			t.Fatal(err)
		}
	}
	promtool(t, page.Bytes(), "check", "metrics")
}

// The alerts can be read, and each is raised by what it is for, and not else.
func TestAlerts(t *testing.T) {
	promtool(t, nil, "check", "rules", "alerts.yml")
	promtool(t, nil, "test", "rules", "testdata/alerts_test.yml")
}
