package host

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func readConfig(t *testing.T, content string) (Config, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "nvhd.toml")
	must(t, os.WriteFile(path, []byte(content), 0o600))
	return ReadConfig(path)
}

func TestConfig(t *testing.T) {
	c, err := readConfig(t, `
state_dir = "/srv/nvh"
runtime_dir = "/run/other"
signal = "usr1"
in_flight = 3
park = "30s"
slow_flush = true
[[pool]]
name = "fast"
path = "/mnt/pmem0/"
[[pool]]
name = "slow"
path = "/mnt/pmem1/../pmem2"
trust_unhealthy = true
`)
	must(t, err)
	if c.StateDir != "/srv/nvh" || c.Socket != "/run/other/nvhd.sock" || c.OutageSignal() != unix.SIGUSR1 || c.InFlight != 3 ||
		time.Duration(c.Park) != 30*time.Second || !c.SlowFlush || !c.Realtime || c.QEMU == "" || c.implicit || c.path == "" {
		t.Errorf("read %+v", c)
	}
	if len(c.Pools) != 2 || c.Pools[0].Path != "/mnt/pmem0" || c.Pools[1].Path != "/mnt/pmem2" || !c.Pools[1].TrustUnhealthy {
		t.Errorf("pools %+v", c.Pools)
	}
}

func TestConfigDefaults(t *testing.T) {
	c, err := readConfig(t, "")
	must(t, err)
	if !c.implicit || len(c.Pools) != 1 || c.Pools[0].Path != builtinPool || c.OutageSignal() != unix.SIGPWR || c.StateDir != "/var/lib/nvh" {
		t.Errorf("defaults %+v", c)
	}
	if _, err := ReadConfig(filepath.Join(t.TempDir(), "none.toml")); err == nil {
		t.Error("a configuration that was named and is not there was read")
	}
	if _, err := ReadConfig(t.TempDir()); err == nil {
		t.Error("a folder was read")
	}
}

// What cannot work is refused at the start, in words that name it.
func TestConfigRefuses(t *testing.T) {
	for name, c := range map[string]struct{ content, part string }{
		"unknown key":          {"statedir = \"/x\"", `"statedir"`},
		"unknown key of pool":  {"[[pool]]\nname = \"a\"\npath = \"/a\"\nsize = 1", "size"},
		"not TOML":             {"state_dir = /x", "nvhd.toml"},
		"wrong type":           {"in_flight = \"two\"", "in_flight"},
		"relative state_dir":   {"state_dir = \"state\"", `state_dir "state" is not an absolute path`},
		"empty state_dir":      {"state_dir = \"\"", "state_dir"},
		"relative runtime_dir": {"runtime_dir = \"./run\"", `runtime_dir "./run" is not an absolute path`},
		"relative socket":      {"socket = \"nvhd.sock\"", `socket "nvhd.sock" is not an absolute path`},
		"long socket":          {"socket = \"/" + strings.Repeat("x", 107) + "\"", "107 bytes"},
		"long runtime_dir":     {"runtime_dir = \"/" + strings.Repeat("x", 90) + "\"", "too long"},
		"runtime in state":     {"state_dir = \"/srv/nvh\"\nruntime_dir = \"/srv/nvh/\"", "the same folder"},
		"signal":               {"signal = \"SIGKILL\"", "SIGKILL"},
		"park":                 {"park = \"-1s\"", "park"},
		"in_flight":            {"in_flight = -1", "in_flight"},
		"parallel":             {"parallel = -1", "parallel"},
		"pool name":            {"[[pool]]\nname = \"a/b\"\npath = \"/a\"", "a/b"},
		"pool without a name":  {"[[pool]]\npath = \"/a\"", "pool name"},
		"pool without a path":  {"[[pool]]\nname = \"a\"", "not absolute"},
		"relative pool":        {"[[pool]]\nname = \"a\"\npath = \"a\"", "not absolute"},
		"two pools of a name":  {"[[pool]]\nname = \"a\"\npath = \"/a\"\n[[pool]]\nname = \"a\"\npath = \"/b\"", `named "a"`},
		"two pools of a path":  {"[[pool]]\nname = \"a\"\npath = \"/a\"\n[[pool]]\nname = \"b\"\npath = \"/a/\"", "both at /a"},
	} {
		if _, err := readConfig(t, c.content); err == nil || !strings.Contains(err.Error(), c.part) {
			t.Errorf("%s: %v; want %q", name, err, c.part)
		}
	}
}
