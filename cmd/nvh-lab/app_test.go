package main

import (
	"io"
	"strings"
	"testing"
)

// Whatever cannot be done is an error that says why, and what to do if that is not plain.
func TestRefusals(t *testing.T) {
	for line, want := range map[string]string{
		"bogus":                     `unknown command "bogus"`,
		"up extra":                  `unknown command "extra"`,
		"up --kernel 5.1":           "know 6.1, 6.12",
		"up --qemu 6":               "know 7.2, 10.0",
		"up --nvdimm 100M":          "a multiple of 16 MiB",
		"up --nvdimm 512M,raw":      "know fsdax, devdax",
		"up --nvdimm abc":           "256M or 2GiB",
		"up --cpus -1":              "take 1 or more",
		"up --memory 10M":           "512 MiB or more",
		"up --bin /nowhere":         "run make build",
		"up --persistence x":        "know memory_controller, cpu_cache",
		"up --bogus":                "unknown flag",
		"exec":                      "at least 1 arg",
		"cp :/a":                    "accepts 2 arg",
		"status":                    "nvh-lab up",
		"nmi":                       "nvh-lab up",
		"cut":                       "nvh-lab up",
		"power-on":                  "nvh-lab up",
		"down":                      "nvh-lab up",
		"--host A/B status":         "a-z, 0-9 and -",
		"--host none exec ls":       "nvh-lab up",
		"--host none console":       "nvh-lab up",
		"--host none cp :/etc/a /b": "nvh-lab up",
	} {
		t.Run(line, func(t *testing.T) {
			t.Setenv("NVH_LAB", t.TempDir())
			a := &app{stdin: strings.NewReader(""), stdout: io.Discard, stderr: io.Discard}
			root := a.rootCommand()
			args := strings.Fields(line)
			if args[0] == "up" && !strings.Contains(line, "--bin") {
				args = append(args, "--bin", "/bin")
			}
			root.SetArgs(args)
			err := root.ExecuteContext(t.Context())
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("says %v, want %q", err, want)
			}
		})
	}
}
