package nvdimm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/internal/blockdev"
)

// System is a machine: a root folder with sys, proc and dev below it. Any other than "/" is a copy of what another machine
// shows there, and can be read.
type System string

// Host is the machine this program runs on.
const Host System = "/"

// ErrNoDIMM is a DIMM that the machine does not have.
var ErrNoDIMM = errors.New("no such DIMM")

func (s System) path(parts ...string) string {
	return filepath.Join(append([]string{string(s)}, parts...)...)
}

var (
	dimmName   = regexp.MustCompile(`^nmem[0-9]+$`)
	regionName = regexp.MustCompile(`^region[0-9]+$`)
	busName    = regexp.MustCompile(`^ndbus[0-9]+$`)
)

// DIMMs lists all DIMMs of the machine in the order of their numbers. A machine without NVDIMMs has none.
func (s System) DIMMs() ([]DIMM, error) {
	names, err := s.members(dimmName)
	var list []DIMM
	for _, name := range names {
		d, problem := s.DIMM(name)
		err = errors.Join(err, problem)
		list = append(list, d)
	}
	return list, err
}

// Regions lists all regions of the machine in the order of their numbers.
func (s System) Regions() ([]Region, error) {
	names, err := s.members(regionName)
	var list []Region
	for _, name := range names {
		r, problem := s.Region(name)
		err = errors.Join(err, problem)
		list = append(list, r)
	}
	return list, err
}

// members lists the devices of the NVDIMM bus that have such a name.
func (s System) members(name *regexp.Regexp) ([]string, error) {
	entries, err := os.ReadDir(s.path("sys/bus/nd/devices"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // the kernel has not found any, or has no driver
	}
	var names []string
	for _, e := range entries {
		if name.MatchString(e.Name()) {
			names = append(names, e.Name())
		}
	}
	slices.SortFunc(names, func(a, b string) int {
		if d := len(a) - len(b); d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
	return names, err
}

// Memory is the regions below a file, device or file system.
type Memory struct {
	Devices []string // the devices that lie on the regions: "pmem0", "dax0.0"
	Regions []Region // in the order of their names; empty: it is not NVDIMM memory, as far as the kernel says
}

// Below finds the memory under what stat(2) says of a file: of a character device the device itself, of anything else
// the file system it is on.
func (s System) Below(st *unix.Stat_t) (Memory, error) {
	if st.Mode&unix.S_IFMT == unix.S_IFCHR {
		dir, err := filepath.EvalSymlinks(s.path("sys/dev/char", fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))))
		if err != nil {
			return Memory{}, err
		}
		return s.below([]blockdev.Device{{Name: filepath.Base(dir), Dir: dir}})
	}
	devices, err := blockdev.Below(string(s), st.Dev)
	if errors.Is(err, blockdev.ErrNoDevice) {
		return Memory{}, nil
	}
	if err != nil {
		return Memory{}, err
	}
	return s.below(devices)
}

func (s System) below(devices []blockdev.Device) (Memory, error) {
	var m Memory
	for _, d := range devices {
		m.Devices = append(m.Devices, d.Name)
		name, ok := regionAbove(d.Dir)
		if !ok || slices.ContainsFunc(m.Regions, func(r Region) bool { return r.Name == name }) {
			continue
		}
		r, err := s.Region(name)
		if err != nil {
			return m, err
		}
		m.Regions = append(m.Regions, r)
	}
	return m, nil
}

// regionAbove climbs from a device in sysfs to the region it lies on: …/ndbus0/region0/pfn0.1/block/pmem0.
func regionAbove(dir string) (string, bool) {
	for dir != "/" && dir != "." {
		parent := filepath.Dir(dir)
		if regionName.MatchString(filepath.Base(dir)) && busName.MatchString(filepath.Base(parent)) {
			return filepath.Base(dir), true
		}
		dir = parent
	}
	return "", false
}

// folder reads the attributes of one device. What is missing is "": which attributes there are depends
// on the kernel and on the firmware.
type folder struct {
	path string
	err  error // the first that is not "no such attribute"
}

func (f *folder) text(name string) string {
	b, err := os.ReadFile(filepath.Join(f.path, name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) && f.err == nil {
		f.err = err
	}
	return strings.TrimSpace(string(b))
}

func (f *folder) has(name string) bool {
	_, err := os.Stat(filepath.Join(f.path, name))
	return err == nil
}

// number reads an attribute in the C notation; ok is false where there is none.
func (f *folder) number(name string) (n uint64, ok bool) {
	text := f.text(name)
	if text == "" {
		return 0, false
	}
	n, err := strconv.ParseUint(text, 0, 64)
	if err != nil && f.err == nil {
		f.err = fmt.Errorf("%s: %w", filepath.Join(f.path, name), err)
	}
	return n, err == nil
}
