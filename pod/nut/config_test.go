package nut

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/BurntSushi/toml"

	"github.com/nv-hypervisor/nv-hypervisor/pod"
)

func TestTarget(t *testing.T) {
	for ups, want := range map[string]string{
		"ups":              "nut ups@localhost:3493",
		"ups@nas":          "nut ups@nas:3493",
		"ups@nas:99":       "nut ups@nas:99",
		"ups@:99":          "nut ups@localhost:99",
		"ups@[::1]:99":     "nut ups@[::1]:99",
		"ups@[fe80::1%e0]": "nut ups@[fe80::1%e0]:3493",
		"ups@::1":          "nut ups@[::1]:3493",
		"ups@192.0.2.7":    "nut ups@192.0.2.7:3493",
	} {
		w, err := New(Config{UPS: ups})
		if err != nil {
			t.Errorf("%s: %v", ups, err)
			continue
		}
		if w.Name() != want || w.Tier() != pod.Battery || w.Health().Connected {
			t.Errorf("%s: name %s, %v, %+v", ups, w.Name(), w.Tier(), w.Health())
		}
	}
	for ups, says := range map[string]string{
		"":               "write NAME@HOST",
		"@nas":           "write NAME@HOST",
		"a b@nas":        "write NAME@HOST",
		"a@b@c":          "write NAME@HOST",
		"ups@nas:":       "is no port",
		"ups@nas:0":      "is no port",
		"ups@nas:70000":  "is no port",
		"ups@nas:nut":    "is no port",
		"ups@a:b:c":      "is no address",
		"ups@[::1]]:999": "is no address",
	} {
		if _, err := New(Config{UPS: ups}); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("ups = %q: %v, want an error that says %q", ups, err, says)
		}
	}
}

func TestConfigMistakes(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := file("good", "secret\r\nnot this\n", 0o640)
	for _, test := range []struct {
		name string
		set  func(*Config)
		says []string // empty: right
	}{
		{"nothing", func(c *Config) {}, nil},
		{"user", func(c *Config) { c.User, c.PasswordFile = "nvh", good }, nil},
		{"no password", func(c *Config) { c.User = "nvh" }, []string{"password_file"}},
		{"no user", func(c *Config) { c.PasswordFile = good }, []string{"user is not"}},
		{"relative", func(c *Config) { c.User, c.PasswordFile = "nvh", "secret" }, []string{"absolute"}},
		{"missing", func(c *Config) { c.User, c.PasswordFile = "nvh", dir+"/none" }, []string{"chmod 600"}},
		{"a folder", func(c *Config) { c.User, c.PasswordFile = "nvh", dir }, []string{"is not a file"}},
		{"open", func(c *Config) { c.User, c.PasswordFile = "nvh", file("open", "x", 0o644) }, []string{"open to everybody", "chmod 600"}},
		{"empty", func(c *Config) { c.User, c.PasswordFile = "nvh", file("empty", "\nx", 0o600) }, []string{"empty line"}},
		{"binary", func(c *Config) { c.User, c.PasswordFile = "nvh", file("binary", "a\x00", 0o600) }, []string{"control character"}},
		{"tls", func(c *Config) { c.TLS = "yes" }, []string{`"offered", "required" or "off"`}},
		{"required", func(c *Config) { c.TLS = TLSRequired }, nil},
		{"ca without need", func(c *Config) { c.CAFile = good }, []string{`tls = "required"`}},
		{"ca relative", func(c *Config) { c.TLS, c.CAFile = TLSRequired, "ca.pem" }, []string{"absolute"}},
		{"ca missing", func(c *Config) { c.TLS, c.CAFile = TLSRequired, dir+"/none" }, []string{"ca_file", "no such file"}},
		{"ca is none", func(c *Config) { c.TLS, c.CAFile = TLSRequired, good }, []string{"no certificate", "PEM"}},
		{"interval", func(c *Config) { c.Interval = time.Millisecond }, []string{"between 100ms and 30s"}},
		{"slow", func(c *Config) { c.Interval = time.Hour }, []string{"between 100ms and 30s"}},
		{"several", func(c *Config) { c.UPS, c.TLS, c.Interval = "", "yes", -1 }, []string{"NAME@HOST", "tls", "interval"}},
	} {
		config := Config{UPS: "ups"}
		test.set(&config)
		_, err := New(config)
		if (err == nil) != (test.says == nil) {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		for _, says := range test.says {
			if !strings.Contains(err.Error(), says) {
				t.Errorf("%s: %v, want it to say %q", test.name, err, says)
			}
		}
	}
	if password, err := (&Config{User: "nvh", PasswordFile: good}).password(); err != nil || password != "secret" {
		t.Errorf("password %q, %v", password, err)
	}
}

// The keys are those of the package comment.
func TestKeys(t *testing.T) {
	var got Config
	meta, err := toml.Decode(`ups = "u@h"
user = "n"
password_file = "/p"
tls = "required"
ca_file = "/c"
interval = "2s"`, &got)
	want := Config{UPS: "u@h", User: "n", PasswordFile: "/p", TLS: TLSRequired, CAFile: "/c", Interval: 2 * time.Second}
	if err != nil || got != want || len(meta.Undecoded()) > 0 {
		t.Errorf("%+v, %v, not decoded: %v", got, err, meta.Undecoded())
	}
	comment, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range meta.Keys() {
		if !strings.Contains(string(comment), "\n//\t"+key.String()+" ") {
			t.Errorf("the package comment does not explain %s", key)
		}
	}
}
