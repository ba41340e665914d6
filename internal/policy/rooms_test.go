package policy

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
)

// room is a package and what it may import of this module, itself aside. Its tests may also import whatever stands
// above it, and the packages in its own folder.
type room struct {
	path    string
	imports string // separated by spaces
}

// rooms is the map of the code base, from the ground up: a package may import only what stands above it in this table.
// A new package gets a line below the last of the packages it imports.
var rooms = []room{
	{"internal/version", ""},
	{"internal/durable", ""},
	{"internal/terminal", ""},
	{"internal/connlimit", ""},
	{"internal/strictjson", ""},

	// One room each: memory that survives, the protocol of QEMU.
	{"internal/blockdev", ""},
	{"nvram/nvdimm", "internal/blockdev"},
	{"nvram/nvdimm/nvdimmtest", "nvram/nvdimm"},
	{"nvram", "internal/blockdev nvram/nvdimm"},
	{"nvram/nvramtest", ""},
	{"qmp", ""},
	{"qmp/qmptest", ""},

	// One QEMU.
	{"qemu", "nvram qmp"},
	{"qemu/qemutest", "qemu"},

	// One VM: what is kept of it, the thread that saves it, its life.
	{"vm/record", "nvram"},
	{"vm/saver", "vm/record"},
	{"vm", "internal/durable nvram qemu qmp vm/record vm/saver"},

	// Detectors: they know the thread they wake.
	{"pod", "vm/saver"},
	{"pod/signal", "pod vm/saver"},
	{"pod/powersupply", "pod"},
	{"pod/webhook", "internal/connlimit internal/strictjson pod"},
	{"pod/nut", "pod"},
	{"pod/logind", "pod"},
	{"kmod/abi", ""},
	{"libnvram/handles", "nvram"},
	{"libnvram", "libnvram/handles nvram"},
	{"pod/kmod", "kmod/abi pod vm/saver"},

	// All VMs.
	{"outage", "internal/durable vm vm/saver"},
	{"pod/gpio", "pod vm/saver"},
	{"outage/policy", "pod"},
	{"outage/hook", ""},
	{"host", "internal/blockdev internal/durable nvram nvram/nvdimm outage outage/hook outage/policy pod pod/gpio pod/kmod pod/logind pod/nut pod/powersupply pod/signal pod/webhook qemu vm vm/record vm/saver"},
	{"api", "host internal/connlimit internal/strictjson nvram outage pod/webhook qemu vm"},
	{"api/apitest", "api host nvram nvram/nvdimm outage outage/policy pod pod/webhook vm"},

	// The programs.
	{"cmd/nvh", "api host internal/terminal nvram nvram/nvdimm outage pod/webhook qemu vm"},
	{"cmd/nvhd", "api host internal/version pod pod/gpio pod/kmod pod/logind pod/nut pod/powersupply pod/signal pod/webhook vm vm/saver"},

	// The lab, which no program imports.
	{"lab/debian", ""},
	{"lab/emulator", "lab/debian"},
	{"lab/guest/console", ""},
	{"lab/guest/initramfs", ""},
	{"lab/guest/journal", ""},
	{"lab/guest/pattern", ""},
	{"lab/guest/workload", "lab/guest/console lab/guest/journal lab/guest/pattern"},
	{"lab/kernel", "lab/debian"},
	{"lab/guest", "lab/debian lab/guest/console lab/guest/initramfs lab/guest/journal lab/kernel"},
	{"lab/rig", "api host lab/guest nvram qemu vm"},
	{"lab/cmd/demo", "lab/guest lab/rig nvram outage vm vm/saver"},
	{"kmod", "lab/debian"},
	{"lab/sham", "kmod"},
	{"lab/devicecheck", "lab/sham pod pod/gpio pod/powersupply vm/saver"},
	{"kmod/modulecheck", "kmod/abi pod/kmod vm/saver"},
	{"lab/agent", ""},
	{"lab/plan", ""},
	{"lab/inside", "lab/agent lab/plan"},
	{"lab/system", "lab/debian lab/emulator lab/guest lab/guest/initramfs lab/kernel lab/plan"},
	{"lab", "internal/durable kmod lab/agent lab/debian lab/emulator lab/kernel lab/plan lab/system nvram qmp"},
	{"lab/labtest", "lab lab/guest lab/plan outage vm"},
	{"lab/scenario", ""},
	{"cmd/nvh-lab", "internal/terminal lab lab/agent lab/kernel lab/plan nvram"},
	{"lab/cmd/lab-fetch", "lab/debian lab/emulator lab/guest"},

	// The measurements.
	{"bench/stats", ""},
	{"bench/power", "vm/saver"},
	{"bench/floor", "bench/power qemu"},
	{"bench/report", "bench/stats host internal/durable outage vm"},
	{"bench/suite", "bench/floor bench/power bench/report host lab/guest lab/rig nvram outage vm vm/record vm/saver"},
	{"bench/soak", "bench/power bench/report internal/durable lab/guest lab/rig nvram outage vm"},
	{"bench", "bench/soak bench/suite lab/emulator lab/rig"},

	// Tests of the whole.
	{"e2e", ""},
	{"internal/policy", ""},
}

const roomsTable = "the table rooms in internal/policy/rooms_test.go"

var roomRules = []rule{
	{
		name:  "imports flow one way",
		check: func(t *tree) []string { return layering(t, rooms) },
		broken: []example{
			{files{"nvram/x.go": "package nvram\nimport _ \"" + module + "/vm\""}, "nvram imports vm, which stands below it"},
			{files{"qmp/x.go": "package qmp\nimport _ \"" + module + "/nvram\""}, "qmp imports nvram, which its line"},
			{files{"vm/record/x.go": "package record"}, "vm/record no longer imports nvram"},
			{files{"nvram/x_test.go": "package nvram\nimport _ \"" + module + "/host\""}, "the tests of nvram import host"},
			{files{"tape/x.go": "package tape"}, "package tape is missing"},
			{files{"x.go": "package x"}, "package . is missing"},
			{files{}, "nvram is gone"},
		},
	},
	{
		name:  "every package is on the map",
		check: onTheMap,
		broken: []example{
			{files{"tape/drive/x.go": "package drive", "ARCHITECTURE.md": "| `nvram` |"}, "package tape/drive"},
		},
	},
}

// onTheMap finds packages that ARCHITECTURE.md does not show. One of several in a folder is shown by the folder, and
// what helps tests by the package it belongs to.
func onTheMap(t *tree) []string {
	var found []string
	for _, dir := range slices.Sorted(maps.Keys(t.packages())) {
		shown := false
		for at := dir; at != "."; at = path.Dir(at) {
			shown = shown || t.explains("ARCHITECTURE.md", at)
		}
		if !shown {
			found = append(found, fmt.Sprintf("ARCHITECTURE.md does not show package %s on its map", dir))
		}
	}
	return found
}

// layering compares the packages of the tree with the table.
func layering(t *tree, rooms []room) []string {
	var found []string
	packages := t.packages()
	for _, dir := range slices.Sorted(maps.Keys(packages)) {
		i := slices.IndexFunc(rooms, func(r room) bool { return r.path == dir })
		if i < 0 {
			found = append(found, fmt.Sprintf("package %s is missing in %s: add a line for it, below the packages it imports", dir, roomsTable))
			continue
		}
		used, tests := t.neighbours(dir, packages[dir])
		found = append(found, rooms[i].compare(used, rooms[i+1:])...)
		found = append(found, rooms[i].compareTests(tests, rooms[i+1:])...)
	}
	for _, r := range rooms {
		if packages[r.path] == nil {
			found = append(found, fmt.Sprintf("package %s is gone: remove its line from %s", r.path, roomsTable))
		}
	}
	return found
}

// neighbours are the packages of this module that a package imports, and those that its tests do.
func (t *tree) neighbours(dir string, names []string) (used, tests map[string]bool) {
	used, tests = map[string]bool{}, map[string]bool{}
	for _, name := range names {
		into := used
		if isTest(name) {
			into = tests
		}
		for _, imp := range imports(t.goes[name]) {
			if neighbour, ours := strings.CutPrefix(imp, module+"/"); ours && neighbour != dir {
				into[neighbour] = true
			}
		}
	}
	return used, tests
}

func (r room) compare(used map[string]bool, below []room) []string {
	var found []string
	allowed := strings.Fields(r.imports)
	for _, imp := range slices.Sorted(maps.Keys(used)) {
		switch {
		case contains(below, imp):
			found = append(found, fmt.Sprintf("%s imports %s, which stands below it: data flows one way; let %s define the interface it needs, or move what both need up", r.path, imp, r.path))
		case !slices.Contains(allowed, imp):
			found = append(found, fmt.Sprintf("%s imports %s, which its line in %s does not allow: if that is meant, add it there", r.path, imp, roomsTable))
		}
	}
	for _, imp := range allowed {
		if !used[imp] {
			found = append(found, fmt.Sprintf("%s no longer imports %s: take it from its line in %s", r.path, imp, roomsTable))
		}
	}
	return found
}

func (r room) compareTests(used map[string]bool, below []room) []string {
	var found []string
	for _, imp := range slices.Sorted(maps.Keys(used)) {
		if contains(below, imp) && !strings.HasPrefix(imp, r.path+"/") {
			found = append(found, fmt.Sprintf("the tests of %s import %s, which stands below it: test it there, or in e2e", r.path, imp))
		}
	}
	return found
}

func contains(rooms []room, dir string) bool {
	return slices.ContainsFunc(rooms, func(r room) bool { return r.path == dir })
}
