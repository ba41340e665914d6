package record

import (
	"fmt"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/nvram"
)

// Facts are what is true now, to be held against what a record says.
type Facts struct {
	RAM           nvram.ID
	RAMSize       nvram.Bytes
	DirtyShutdown uint64
	QEMUVersion   string
	LaunchSHA256  Digest
	Disks         []DiskIdentity // a disk that is missing is the zero DiskIdentity
}

// Reason says why an image may not be resumed.
type Reason string

// The reasons, as they appear in JSON.
const (
	ReasonNotSaved      Reason = "not-saved"
	ReasonRAMRegion     Reason = "ram-region"
	ReasonRAMSize       Reason = "ram-size"
	ReasonDirtyShutdown Reason = "dirty-shutdown"
	ReasonQEMUVersion   Reason = "qemu-version"
	ReasonLaunch        Reason = "launch"
	ReasonDiskCount     Reason = "disk-count"
	ReasonDiskMissing   Reason = "disk-missing"
	ReasonDiskPath      Reason = "disk-path"
	ReasonDiskInode     Reason = "disk-inode"
	ReasonDiskSize      Reason = "disk-size"
	ReasonDiskWritten   Reason = "disk-written"
)

// Refusal is one reason not to resume an image.
type Refusal struct {
	Reason Reason `json:"reason"`
	Disk   int    `json:"disk"` // index of the disk concerned; -1: none
	Text   string `json:"text"` // a sentence for the operator
}

// Mismatch returns every reason why the image of rec may not be resumed under
// the facts of now; none means that it may, provided State succeeds.
func Mismatch(rec Record, now Facts) []Refusal {
	var list []Refusal
	refuse := func(reason Reason, format string, args ...any) {
		list = append(list, Refusal{Reason: reason, Disk: -1, Text: fmt.Sprintf(format, args...)})
	}
	switch rec.Status {
	case StatusSaved:
	case StatusRunning:
		refuse(ReasonNotSaved, "The VM was running in generation %d when it was lost: no image of that moment was saved.", rec.Generation)
	case StatusStopped:
		refuse(ReasonNotSaved, "The VM was stopped: there is nothing to resume.")
	default:
		refuse(ReasonNotSaved, "The VM was never started: there is nothing to resume.")
	}
	if rec.RAM != now.RAM {
		refuse(ReasonRAMRegion, "The RAM region is another one than when the image was saved.")
	}
	if rec.RAMSize != now.RAMSize {
		refuse(ReasonRAMSize, "The RAM region has %v, but had %v when the image was saved.", now.RAMSize, rec.RAMSize)
	}
	if rec.DirtyShutdown != now.DirtyShutdown {
		refuse(ReasonDirtyShutdown, "The memory module counts %d dirty shutdowns, but counted %d when the image was saved: it has lost data since.",
			now.DirtyShutdown, rec.DirtyShutdown)
	}
	if rec.QEMUVersion != now.QEMUVersion {
		refuse(ReasonQEMUVersion, "QEMU is version %q, but the image was saved by %q.", now.QEMUVersion, rec.QEMUVersion)
	}
	if rec.Launch.SHA256 != now.LaunchSHA256 {
		refuse(ReasonLaunch, "The VM would be started with other arguments than when the image was saved.")
	}
	if len(rec.Disks) != len(now.Disks) {
		refuse(ReasonDiskCount, "The VM has %d disks, but had %d when the image was saved.", len(now.Disks), len(rec.Disks))
		return list
	}
	for i := range rec.Disks {
		list = append(list, diskMismatch(i, rec.Disks[i], now.Disks[i])...)
	}
	return list
}

// diskMismatch compares one disk. The device number is not compared: it may
// change when the host boots.
func diskMismatch(i int, was, now DiskIdentity) []Refusal {
	var list []Refusal
	refuse := func(reason Reason, format string, args ...any) {
		list = append(list, Refusal{Reason: reason, Disk: i, Text: fmt.Sprintf("Disk %d ", i) + fmt.Sprintf(format, args...)})
	}
	if now == (DiskIdentity{}) && was != now {
		refuse(ReasonDiskMissing, "is missing or cannot be read.")
		return list
	}
	if was.PathHash != now.PathHash {
		refuse(ReasonDiskPath, "is at another path than when the image was saved.")
	}
	if was.Inode != now.Inode {
		refuse(ReasonDiskInode, "is another file (inode %d) than when the image was saved (inode %d).", now.Inode, was.Inode)
	}
	if was.Size != now.Size {
		refuse(ReasonDiskSize, "has %d bytes, but had %d when the image was saved.", now.Size, was.Size)
	}
	// An older time is no sign of change: a power cut may roll it back.
	if now.MtimeNS > was.MtimeNS {
		refuse(ReasonDiskWritten, "was written at %s, after the image was saved (last write known then: %s).",
			clock(now.MtimeNS), clock(was.MtimeNS))
	}
	return list
}

func clock(ns int64) string {
	return time.Unix(0, ns).UTC().Format("2006-01-02 15:04:05.000000000 UTC")
}
