package nvdimm

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// WriteLabels writes into the label storage area of a DIMM, reads back what it wrote, and makes the kernel take it up.
//
// The kernel owns the area while a region with the DIMM is active; the error then wraps ErrActive. With force
// such regions are taken offline for the write and put back online afterwards, however it ends. That
// is refused, with ErrInUse, while anything has their memory mounted, mapped or open.
func (s System) WriteLabels(dimm string, p []byte, offset int64, force bool) (err error) {
	l, err := s.OpenLabels(dimm)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	active, err := s.activeRegions(dimm)
	if err != nil {
		return err
	}
	if len(active) > 0 && !force {
		return fmt.Errorf("%s: write the label storage area: %w: %s is active", dimm, ErrActive, strings.Join(names(active), ", "))
	}
	for _, r := range active {
		if users := s.users(r.Name); len(users) > 0 {
			return fmt.Errorf("%s: take %s offline: %w: %s", dimm, r.Name, ErrInUse, strings.Join(users, "; "))
		}
	}
	for _, r := range active {
		if err := s.detach(r.Name); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, s.attach("nd_region", r.Name)) }()
	}
	return errors.Join(l.replace(p, offset), s.reload(dimm))
}

// reload restarts the driver of a DIMM, which reads the labels when it starts and then holds them in memory.
func (s System) reload(dimm string) error {
	if _, err := os.Stat(s.path("sys/bus/nd/devices", dimm, "driver")); errors.Is(err, fs.ErrNotExist) {
		return nil // disabled
	}
	return errors.Join(s.detach(dimm), s.attach("nvdimm", dimm))
}

// replace writes and compares.
func (l *Labels) replace(p []byte, offset int64) error {
	if _, err := l.WriteAt(p, offset); err != nil {
		return err
	}
	back := make([]byte, len(p))
	if _, err := l.ReadAt(back, offset); err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	if !bytes.Equal(back, p) {
		return fmt.Errorf("%s: the label storage area does not hold what was written: the module is defective", l.dimm)
	}
	return nil
}

func (s System) activeRegions(dimm string) ([]Region, error) {
	all, err := s.Regions()
	var active []Region
	for _, r := range all {
		for _, m := range r.Mappings {
			if m.DIMM == dimm && r.Active {
				active = append(active, r)
			}
		}
	}
	return active, err
}

func names(regions []Region) []string {
	var list []string
	for _, r := range regions {
		list = append(list, r.Name)
	}
	return list
}

// detach takes a device of the NVDIMM bus from its driver, as 'ndctl disable-region' does.
func (s System) detach(name string) error {
	path := s.path("sys/bus/nd/devices", name, "driver/unbind")
	if err := os.WriteFile(path, []byte(name), 0); err != nil {
		return fmt.Errorf("take %s offline: %w", name, err)
	}
	return nil
}

// attach gives a device to its driver.
func (s System) attach(driver, name string) error {
	if err := os.WriteFile(s.path("sys/bus/nd/drivers", driver, "bind"), []byte(name), 0); err != nil {
		return fmt.Errorf("put %s back online: %w; try 'ndctl enable-dimm all' and 'ndctl enable-region all'", name, err)
	}
	return nil
}
