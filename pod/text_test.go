package pod

import (
	"encoding/json"
	"strings"
	"testing"
)

// Words of the API mean the same on both sides, and no others mean anything.
func TestText(t *testing.T) {
	type all struct {
		Tiers      []Tier
		Conditions []Condition
	}
	want := `{"Tiers":["emergency","battery","planned"],"Conditions":["unknown","mains","on battery","low battery","going down"]}`
	var read all
	if err := json.Unmarshal([]byte(want), &read); err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(read)
	if err != nil || string(got) != want || read.Tiers[1] != Battery || read.Conditions[2] != OnBattery {
		t.Errorf("%s, %v", got, err)
	}
	for _, wrong := range []string{`{"Tiers":["solar"]}`, `{"Conditions":[""]}`, `{"Tiers":["tier 9"]}`} {
		if err := json.Unmarshal([]byte(wrong), &read); err == nil || !strings.Contains(err.Error(), "none of") {
			t.Errorf("%s: %v", wrong, err)
		}
	}
	if Tier(9).String() != "tier 9" || Condition(9).String() != "condition 9" {
		t.Error(Tier(9), Condition(9))
	}
}
