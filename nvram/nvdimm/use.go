package nvdimm

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// users tells who uses the memory of a region: the kernel, or processes.
func (s System) users(region string) []string {
	dir, err := filepath.EvalSymlinks(s.path("sys/bus/nd/devices", region))
	if err != nil {
		return []string{err.Error()}
	}
	var users []string
	nodes := map[string]bool{}
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() != "uevent" {
			return err
		}
		name, block, err := deviceNode(path)
		if err != nil || name == "" {
			return err
		}
		node := s.path("dev", name)
		nodes[node] = true
		if block {
			users = append(users, heldByKernel(node)...)
		}
		return nil
	})
	if err != nil {
		users = append(users, err.Error())
	}
	return append(users, s.processesWith(nodes)...)
}

// deviceNode reads from a device's uevent what its node below /dev is called, if it has one.
func deviceNode(uevent string) (name string, block bool, err error) {
	text, err := os.ReadFile(uevent)
	if err != nil {
		return "", false, err
	}
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "DEVNAME="); ok {
			name = v
		}
	}
	_, err = os.Stat(filepath.Join(filepath.Dir(uevent), "queue"))
	_, errPart := os.Stat(filepath.Join(filepath.Dir(uevent), "partition"))
	return name, err == nil || errPart == nil, nil
}

// heldByKernel opens a block device exclusively, which fails while it is mounted, swapped on, or below another device.
func heldByKernel(node string) []string {
	f, err := os.OpenFile(node, os.O_RDONLY|os.O_EXCL, 0)
	if err != nil {
		return []string{fmt.Sprintf("%v (mounted?)", err)}
	}
	f.Close() // nothing was written
	return nil
}

// processesWith finds processes that have one of the nodes open or mapped.
func (s System) processesWith(nodes map[string]bool) []string {
	var users []string
	processes, err := filepath.Glob(s.path("proc/[0-9]*"))
	if err != nil || len(nodes) == 0 {
		return nil
	}
	for _, p := range processes {
		for node := range nodes {
			if hasOpen(p, node) || hasMapped(p, node) {
				comm, _ := os.ReadFile(filepath.Join(p, "comm"))
				users = append(users, fmt.Sprintf("process %s (%s) uses %s", filepath.Base(p), strings.TrimSpace(string(comm)), node))
			}
		}
	}
	return users
}

func hasOpen(process, node string) bool {
	fds, err := os.ReadDir(filepath.Join(process, "fd"))
	if err != nil {
		return false // it has ended
	}
	for _, fd := range fds {
		if target, err := os.Readlink(filepath.Join(process, "fd", fd.Name())); err == nil && target == node {
			return true
		}
	}
	return false
}

func hasMapped(process, node string) bool {
	maps, err := os.ReadFile(filepath.Join(process, "maps"))
	return err == nil && strings.Contains(string(maps), " "+node+"\n")
}
