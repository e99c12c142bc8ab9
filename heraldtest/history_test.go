package heraldtest

import (
	"os"
	"strings"
	"testing"
)

// The page lists the promises as the suite has them.
func TestHistoryPromises(t *testing.T) {
	page, err := os.ReadFile("../docs/delivery.md")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Join(strings.Fields(string(page)), " ")
	for _, p := range historyPromises {
		number, name, _ := strings.Cut(p.name, " ")
		if want := number + ". **" + name + "**: " + p.text + "."; !strings.Contains(text, want) {
			t.Errorf("docs/delivery.md lacks: %s", want)
		}
	}
}
