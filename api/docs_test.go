package api_test

import (
	"os"
	"regexp"
	"slices"
	"testing"

	"github.com/nv-hypervisor/nv-hypervisor/api"
)

// docs/api.md describes exactly the endpoints there are, in their order.
func TestDocsListEveryEndpoint(t *testing.T) {
	text, err := os.ReadFile("../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	var documented, served []string
	for _, m := range regexp.MustCompile("(?m)^### `([A-Z]+ /\\S+)`$").FindAllSubmatch(text, -1) {
		documented = append(documented, string(m[1]))
	}
	for _, r := range api.Routes() {
		served = append(served, r.Method+" "+r.Path)
	}
	if !slices.Equal(documented, served) {
		t.Errorf("documented: %q\nserved:     %q", documented, served)
	}
	for _, c := range api.Causes() {
		if !regexp.MustCompile("`" + regexp.QuoteMeta(string(c.Code)) + "`").Match(text) {
			t.Errorf("docs/api.md does not explain the code %q", c.Code)
		}
	}
}
