package host

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/nvram"
)

func (h *Host) checkRealtime() Check {
	switch {
	case !h.config.Realtime:
		return warned("realtime", "switched off by configuration", "Set realtime = true: a busy host delays the save otherwise.")
	case !h.saver.Realtime():
		return warned("realtime", "SCHED_FIFO was refused, "+limitOf("RLIMIT_RTPRIO", unix.RLIMIT_RTPRIO),
			"Run nvhd as root, with CAP_SYS_NICE, or with LimitRTPRIO=infinity in its unit.")
	case h.locked != nil:
		return warned("realtime", "memory is not locked: "+h.locked.Error()+", "+limitOf("RLIMIT_MEMLOCK", unix.RLIMIT_MEMLOCK),
			"Run nvhd as root, with CAP_IPC_LOCK, or with LimitMEMLOCK=infinity in its unit.")
	}
	return ok("realtime", "the save runs at SCHED_FIFO in locked memory")
}

func limitOf(name string, resource int) string {
	var limit unix.Rlimit
	if err := unix.Getrlimit(resource, &limit); err != nil {
		return name + " is unknown"
	}
	if limit.Cur == unix.RLIM_INFINITY {
		return name + " is unlimited"
	}
	return fmt.Sprintf("%s is %d", name, limit.Cur)
}

// checkUser: a guest that breaks out of its QEMU gets what QEMU may.
func (h *Host) checkUser() Check {
	const name = "qemu_user"
	switch {
	case h.config.QEMUUser != "":
		if _, err := user.Lookup(h.config.QEMUUser); err != nil {
			return failed(name, err.Error(), "Create it with useradd --system "+h.config.QEMUUser+", or set qemu_user to another one.")
		}
		return ok(name, "QEMU runs as %s", h.config.QEMUUser)
	case os.Geteuid() == 0:
		return warned(name, "QEMU runs as root", "Set qemu_user in "+DefaultConfigPath+" to a user that has nothing else.")
	}
	return ok(name, "QEMU runs as the daemon's user, which is not root")
}

// checkStateDir: definitions and timelines must be there after a boot.
func (h *Host) checkStateDir() Check {
	const name = "state_dir"
	var st unix.Statfs_t
	if err := unix.Statfs(h.config.StateDir, &st); err != nil {
		return failed(name, fmt.Sprintf("%s: %v", h.config.StateDir, err), "Restore it, or set state_dir to a folder on a disk.")
	}
	free := nvram.Bytes(st.Bavail) * nvram.Bytes(st.Bsize)
	switch {
	case int64(st.Type) == unix.TMPFS_MAGIC || int64(st.Type) == unix.RAMFS_MAGIC:
		return failed(name, h.config.StateDir+" is in memory: a boot of the host forgets the VMs", "Set state_dir to a folder on a disk.")
	case free < leastFree:
		return warned(name, fmt.Sprintf("%s has only %v free", h.config.StateDir, free), "Make room: without it no VM is created and no timeline is kept.")
	}
	return ok(name, "%s, %v free", h.config.StateDir, free)
}

// leastFree is room for some hundred timelines and definitions.
const leastFree = 16 * nvram.MiB

// checkSocket: whoever reaches the API can read every guest's memory.
func (h *Host) checkSocket() Check {
	const name = "socket"
	info, err := os.Stat(h.config.Socket)
	if err != nil {
		return failed(name, err.Error(), "Restart nvhd, which makes its socket.")
	}
	if info.Mode().Perm()&0o007 != 0 {
		return failed(name, fmt.Sprintf("%s has mode %v: everybody may connect", h.config.Socket, info.Mode().Perm()), "Run chmod o= "+h.config.Socket+".")
	}
	who := "root and the daemon's user"
	if h.config.Group != "" {
		if _, err := user.LookupGroup(h.config.Group); err != nil {
			return failed(name, err.Error(), "Create it with groupadd --system "+h.config.Group+", or set group to another one.")
		}
		who += ", and the group " + h.config.Group
	}
	return ok(name, "%s is open to %s", h.config.Socket, who)
}

// checkClock: the guests' clocks are set by the host's after a resume, and the host's by its own after a boot.
func checkClock() Check {
	const name = "clock"
	var t unix.Timex
	if _, err := unix.Adjtimex(&t); err != nil {
		return warned(name, "its state cannot be read: "+err.Error(), "Run chrony or systemd-timesyncd.")
	}
	if clocks, err := filepath.Glob("/sys/class/rtc/rtc*"); err != nil || len(clocks) == 0 {
		return warned(name, "the host has no real-time clock: after a boot it does not know the time, nor do resumed guests",
			"Load the driver of the clock, or let chrony set the time before nvhd starts.")
	}
	if t.Status&unix.STA_UNSYNC != 0 {
		return warned(name, "the host's clock is not synchronised: resumed guests are set by it", "Run chrony or systemd-timesyncd.")
	}
	return ok(name, "synchronised, with a real-time clock")
}

// checkDetectors: something must tell that the power fails, and be heard.
func checkDetectors(list []Detector) []Check {
	if len(list) < 2 {
		return []Check{warned("detectors", "only the signal announces outages: nothing watches the power by itself",
			"Configure a UPS or another detector in "+DefaultConfigPath+", or let a service of the UPS send the signal: see docs/detectors.md.")}
	}
	var checks []Check
	for _, d := range list {
		name := "detector " + d.Name
		switch {
		case !d.Connected:
			checks = append(checks, failed(name, orElse(d.Error, "it has not been reached yet"), "Repair it, then try nvh pod test; until then it announces nothing."))
		case d.Error+d.Warning != "":
			checks = append(checks, warned(name, d.Error+d.Warning, "See nvh pod ls and docs/detectors.md."))
		case d.Condition != nil:
			checks = append(checks, ok(name, "%s tier, %s", d.Tier, *d.Condition))
		default:
			checks = append(checks, ok(name, "%s tier", d.Tier))
		}
	}
	return checks
}

func orElse(text, otherwise string) string {
	if text != "" {
		return text
	}
	return otherwise
}
