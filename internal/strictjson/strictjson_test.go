package strictjson_test

import (
	"strings"
	"testing"

	"github.com/nv-hypervisor/nv-hypervisor/internal/strictjson"
)

type value struct {
	Name  string
	Inner map[string]any
}

func TestDoubtfulIsRefused(t *testing.T) {
	for text, why := range map[string]string{
		``:                                "ends too early",
		`{"Name":"a"`:                     "ends too early",
		`{"Name":"a","Name":"b"}`:         "given twice",
		`{"Inner":{"a":[{"b":1,"b":2}]}}`: "given twice",
		`{"Name":"a"} {}`:                 "follows",
		`{"Colour":"red"}`:                "unknown field",
		"{\"Name\":\"\xff\"}":             "UTF-8",
		`{"Inner":{"a":` + strings.Repeat("[", 63) + strings.Repeat("]", 63) + `}}`: "deeper",
	} {
		var v value
		if err := strictjson.Decode([]byte(text), &v); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v, want %q", text, err, why)
		}
	}
	var v value
	if err := strictjson.Decode([]byte(` {"Name":"a","Inner":{"Name":[1,2]}} `), &v); err != nil || v.Name != "a" {
		t.Errorf("%+v, %v", v, err)
	}
}
