package nvram

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// lock takes the pool for this process, until the file is closed or the process ends, however it ends.
func (m *medium) lock() error {
	for {
		err := unix.Flock(int(m.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EWOULDBLOCK):
			return &problem{ErrLocked, lockHolder(m.File), "stop the program that uses it, or go through it (nvh talks to the running nvhd)"}
		default:
			return fmt.Errorf("lock: %w", err)
		}
	}
}

// lockHolder names the process that holds the flock, as far as proc_locks(5) shows it to us.
func lockHolder(f *os.File) string {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return "by another process"
	}
	locks, err := os.ReadFile("/proc/locks")
	if err != nil {
		return "by another process"
	}
	file := fmt.Sprintf("%02x:%02x:%d", unix.Major(st.Dev), unix.Minor(st.Dev), st.Ino)
	for line := range strings.Lines(string(locks)) {
		// 1: FLOCK  ADVISORY  WRITE 1234 00:1a:5678 0 EOF
		field := strings.Fields(line)
		if len(field) < 6 || field[1] != "FLOCK" || field[5] != file {
			continue
		}
		if pid, err := strconv.Atoi(field[4]); err == nil && pid > 0 {
			return "by " + processName(pid)
		}
	}
	return "by another process"
}

func processName(pid int) string {
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return fmt.Sprintf("process %d", pid)
	}
	return fmt.Sprintf("process %d (%s)", pid, strings.TrimSpace(string(name)))
}
