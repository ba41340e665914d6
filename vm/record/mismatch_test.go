package record

import (
	"slices"
	"strings"
	"testing"
)

func TestMismatch(t *testing.T) {
	a, _ := newArea(t)
	start(t, a, "one")
	rec := save(t, a, state(1, 10))
	facts := func() Facts {
		return Facts{
			RAM: rec.RAM, RAMSize: rec.RAMSize, DirtyShutdown: rec.DirtyShutdown,
			QEMUVersion: rec.QEMUVersion, LaunchSHA256: rec.Launch.SHA256, Disks: slices.Clone(rec.Disks),
		}
	}
	for _, tc := range []struct {
		name   string
		change func(r *Record, f *Facts)
		want   []Reason
	}{
		{"nothing", func(*Record, *Facts) {}, nil},
		{"older mtime", func(_ *Record, f *Facts) { f.Disks[1].MtimeNS-- }, nil},
		{"device number", func(_ *Record, f *Facts) { f.Disks[1].Device++ }, nil},
		{"newer mtime", func(_ *Record, f *Facts) { f.Disks[1].MtimeNS++ }, []Reason{ReasonDiskWritten}},
		{"inode", func(_ *Record, f *Facts) { f.Disks[1].Inode++ }, []Reason{ReasonDiskInode}},
		{"size", func(_ *Record, f *Facts) { f.Disks[1].Size-- }, []Reason{ReasonDiskSize}},
		{"path", func(_ *Record, f *Facts) { f.Disks[1].PathHash++ }, []Reason{ReasonDiskPath}},
		{"missing", func(_ *Record, f *Facts) { f.Disks[1] = DiskIdentity{} }, []Reason{ReasonDiskMissing}},
		{"count", func(_ *Record, f *Facts) { f.Disks = f.Disks[:1] }, []Reason{ReasonDiskCount}},
		{"qemu", func(_ *Record, f *Facts) { f.QEMUVersion = "10.0.2" }, []Reason{ReasonQEMUVersion}},
		{"launch", func(_ *Record, f *Facts) { f.LaunchSHA256[31]++ }, []Reason{ReasonLaunch}},
		{"ram", func(_ *Record, f *Facts) { f.RAM[0]++ }, []Reason{ReasonRAMRegion}},
		{"ram size", func(_ *Record, f *Facts) { f.RAMSize /= 2 }, []Reason{ReasonRAMSize}},
		{"dirty shutdown", func(_ *Record, f *Facts) { f.DirtyShutdown++ }, []Reason{ReasonDirtyShutdown}},
		{"running", func(r *Record, _ *Facts) { r.Status = StatusRunning }, []Reason{ReasonNotSaved}},
		{"stopped", func(r *Record, _ *Facts) { r.Status = StatusStopped }, []Reason{ReasonNotSaved}},
		{"none", func(r *Record, _ *Facts) { r.Status = StatusNone }, []Reason{ReasonNotSaved}},
		{"several", func(r *Record, f *Facts) { f.RAM[0]++; f.QEMUVersion = ""; f.Disks[0].Size++; f.Disks[1].Inode++ },
			[]Reason{ReasonRAMRegion, ReasonQEMUVersion, ReasonDiskSize, ReasonDiskInode}},
	} {
		r, f := rec, facts()
		tc.change(&r, &f)
		var got []Reason
		for _, refusal := range Mismatch(r, f) {
			got = append(got, refusal.Reason)
			if !strings.HasSuffix(refusal.Text, ".") || strings.Contains(refusal.Text, "%!") {
				t.Errorf("%s: not a sentence: %q", tc.name, refusal.Text)
			}
			if isDisk := strings.HasPrefix(string(refusal.Reason), "disk-") && refusal.Reason != ReasonDiskCount; isDisk != (refusal.Disk >= 0) {
				t.Errorf("%s: refusal about disk %d: %q", tc.name, refusal.Disk, refusal.Text)
			}
		}
		if !slices.Equal(got, tc.want) {
			t.Errorf("%s: refused for %v, want %v", tc.name, got, tc.want)
		}
	}
}
