package main_test

import (
	"testing"

	"github.com/nv-hypervisor/nv-hypervisor/nvram"
)

// TestProcessStaysItsOwn runs testdata/process.c, linked with the library and loading it, from a shell that sets what the program inherits: a limit
// of 200 open files, so that it shows if the library raises it, and SIGPIPE.
func TestProcessStaysItsOwn(t *testing.T) {
	programs := map[string]string{
		"linked":  compileLinked(t, "testdata/process.c"),
		"loading": compile(t, "testdata/process.c", []string{"-DLOAD"}, "--cflags"),
	}
	path := shmPath(t)
	must(t, nvram.Init(nvram.InitOptions{Path: path, Size: 64 * nvram.MiB}))
	for how, program := range programs {
		for _, test := range []struct{ name, before, end string }{
			{name: "unchanged"},
			{name: "mask"},
			{name: "pipe-default", end: "signal: broken pipe\n"},
			{name: "pipe-inherited", before: "trap '' PIPE; "},
			{name: "pipe-handler"},
			{name: "segv-default", end: "signal: segmentation fault\n"},
			{name: "segv-handler"},
			{name: "segv-argument"},
			{name: "waited-for"},
			{name: "alarms"},
			{name: "fork"},
			{name: "threads"},
		} {
			t.Run(how+"/"+test.name, func(t *testing.T) {
				c := command(t, "sh", "-c", `ulimit -c 0; ulimit -S -n 200; `+test.before+`exec "$@"`, "sh", program, path, test.name)
				if _, end := result(t, c); end != test.end {
					t.Fatalf("ended with %q, not %q", end, test.end)
				}
			})
		}
	}
}
