package policy

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/nv-hypervisor/nv-hypervisor/host"
)

const (
	configurationPage    = "docs/configuration.md"
	configurationManual  = "docs/man/nvhd.toml.5"
	configurationExample = "packaging/nvhd.toml"
)

var configurationRules = []rule{
	{
		name:  "every key of the configuration is documented",
		check: configurationKeys,
		broken: []example{
			{files{configurationPage: "| `state_dir` |"}, configurationPage + " does not explain key socket"},
			{files{configurationManual: ".TP\n.B socket\n"}, configurationManual + " does not explain key state_dir"},
			{files{configurationExample: "#socket = 1"}, configurationExample + " does not show key state_dir"},
			{files{configurationExample: "#swap = true\n"}, configurationExample + " shows key swap, which does not exist"},
		},
	},
}

func configurationKeys(t *tree) []string {
	var found []string
	keys := keysOf(reflect.TypeFor[host.Config]())
	for _, key := range keys {
		if !strings.Contains(t.text[configurationPage], "| `"+key+"` |") {
			found = append(found, fmt.Sprintf("%s does not explain key %s", configurationPage, key))
		}
		if !strings.Contains(t.text[configurationManual], ".TP\n.B "+key+"\n") {
			found = append(found, fmt.Sprintf("%s does not explain key %s", configurationManual, key))
		}
		if !regexp.MustCompile(`(?m)^#?` + key + ` *=`).MatchString(t.text[configurationExample]) {
			found = append(found, fmt.Sprintf("%s does not show key %s", configurationExample, key))
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^#?(\w+) *=`).FindAllStringSubmatch(t.text[configurationExample], -1) {
		if !strings.Contains(" "+strings.Join(keys, " ")+" ", " "+m[1]+" ") {
			found = append(found, fmt.Sprintf("%s shows key %s, which does not exist", configurationExample, m[1]))
		}
	}
	return found
}

// keysOf are the TOML keys of a struct, those of its tables included.
func keysOf(config reflect.Type) []string {
	var keys []string
	for i := range config.NumField() {
		field := config.Field(i)
		if !field.IsExported() {
			continue
		}
		inner := field.Type
		for inner.Kind() == reflect.Slice || inner.Kind() == reflect.Pointer {
			inner = inner.Elem()
		}
		if inner.Kind() == reflect.Struct && (inner.PkgPath() == config.PkgPath() || strings.HasPrefix(inner.PkgPath(), module+"/pod/")) {
			keys = append(keys, keysOf(inner)...)
		} else {
			keys = append(keys, strings.Split(field.Tag.Get("toml"), ",")[0])
		}
	}
	return keys
}

// The example configuration says what the defaults are: with every key in force it configures the same as none.
func TestExampleShowsTheDefaults(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, configurationExample))
	if err != nil {
		t.Fatal(err)
	}
	inForce := regexp.MustCompile(`(?m)^#(\w+ *=|\[)`).ReplaceAllString(string(text), "$1")
	if wrong := differences(read(t, inForce), read(t, "")); len(wrong) > 0 {
		t.Errorf("%s shows other values than the defaults: %v", configurationExample, wrong)
	}
	for _, other := range []string{"parallel = 7", "[policy.battery]\nride = false"} {
		if len(differences(read(t, other), read(t, ""))) != 1 {
			t.Errorf("the difference %q is not found", other)
		}
	}
}

func read(t *testing.T, text string) host.Config {
	t.Helper()
	path := filepath.Join(t.TempDir(), "nvhd.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := host.ReadConfig(path)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// differences lists the keys that differ. Tables that may be missing are left out: they have no defaults.
func differences(a, b host.Config) []string {
	return differ(reflect.ValueOf(a), reflect.ValueOf(b))
}

func differ(a, b reflect.Value) []string {
	var wrong []string
	for i := range a.NumField() {
		field := a.Type().Field(i)
		switch {
		case !field.IsExported(), field.Type.Kind() == reflect.Slice, field.Type.Kind() == reflect.Pointer:
		case field.Type.Kind() == reflect.Struct:
			wrong = append(wrong, differ(a.Field(i), b.Field(i))...)
		case !a.Field(i).Equal(b.Field(i)):
			wrong = append(wrong, fmt.Sprintf("%s = %v, default %v", field.Tag.Get("toml"), a.Field(i), b.Field(i)))
		}
	}
	return wrong
}
