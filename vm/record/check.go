package record

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/nv-hypervisor/nv-hypervisor/nvram"
)

// Finding is one thing wrong with an area. A power cut alone causes none.
type Finding struct {
	Part   string `json:"part"` // "record copy 0", "record", "launch record", "state"
	Text   string `json:"text"`
	Remedy string `json:"remedy"`
	Fatal  bool   `json:"fatal"` // the image, or the whole record, is lost by it
}

// Check verifies every checksum of the area and returns what is damaged.
func (a *Area) Check() []Finding {
	var list []Finding
	views := a.copies()
	for i, v := range views {
		if v.err != nil && !errors.Is(v.err, errUnwritten) {
			list = append(list, Finding{
				Part:   fmt.Sprintf("record copy %d", i),
				Text:   v.err.Error(),
				Remedy: "check the health of the memory module; the copy is rewritten at the next change",
			})
		}
	}
	r, err := a.Latest()
	if err != nil {
		return append(list, Finding{
			Part:   "record",
			Text:   err.Error(),
			Remedy: "cold-boot the VM: its last run cannot be resumed",
			Fatal:  true,
		})
	}
	if r.Launch.Index >= 0 {
		if _, err := a.Launch(); err != nil {
			list = append(list, Finding{
				Part:   "launch record",
				Text:   err.Error(),
				Remedy: "cold-boot the VM from its definition",
				Fatal:  true,
			})
		}
	}
	if r.Status == StatusSaved {
		if _, err := a.State(); err != nil {
			list = append(list, Finding{
				Part:   "state",
				Text:   err.Error(),
				Remedy: "cold-boot the VM: this image cannot be resumed",
				Fatal:  true,
			})
		}
	}
	return list
}

// Dump describes the region for people, damaged or not, opened or not.
func Dump(mem nvram.Memory, w io.Writer) error {
	var b strings.Builder
	a, err := Open(mem)
	if err != nil {
		fmt.Fprintf(&b, "header: %v\n", err)
		_, err = io.WriteString(w, b.String())
		return err
	}
	id := a.id
	fmt.Fprintf(&b, "header: VM %q %v, RAM region %v of %v, slots of %v\n",
		id.Name, id.VM, id.RAM, id.RAMSize, id.SlotSize)
	for i, v := range a.copies() {
		fmt.Fprintf(&b, "record copy %d: ", i)
		if v.err != nil {
			fmt.Fprintf(&b, "%v; its bytes read:\n", v.err)
			v.record = parseRecord(slices.Clone(mem.Bytes()[copyAt(uint64(i)):][:recordSize]))
		} else {
			b.WriteString("valid\n")
		}
		dumpRecord(&b, v.record)
	}
	if r, err := a.Latest(); err != nil {
		fmt.Fprintf(&b, "current: %v\n", err)
	} else {
		fmt.Fprintf(&b, "current: sequence %d, %v\n", r.Sequence, r.Status)
	}
	for _, f := range a.Check() {
		fmt.Fprintf(&b, "finding: %s: %s\n", f.Part, f.Text)
	}
	_, err = io.WriteString(w, b.String())
	return err
}

func dumpRecord(b *strings.Builder, r Record) {
	fmt.Fprintf(b, "  sequence %d, generation %d, %v", r.Sequence, r.Generation, r.Status)
	if r.Note != "" {
		fmt.Fprintf(b, " (%q)", r.Note)
	}
	fmt.Fprintf(b, "\n  launch record %d, SHA-256 %v\n", r.Launch.Index, r.Launch.SHA256)
	if r.Slot < 0 || r.StateLength == 0 {
		return
	}
	fmt.Fprintf(b, "  state: slot %d, %d bytes, CRC32C %08x, saved %s, outage %q\n",
		r.Slot, r.StateLength, r.StateCRC, clock(r.SavedAt.UnixNano()), r.Outage)
	fmt.Fprintf(b, "  QEMU %q, dirty shutdowns %d, boot id %v, event at %d ns\n",
		r.QEMUVersion, r.DirtyShutdown, r.BootID, r.EventNS)
	for i, d := range r.Disks {
		fmt.Fprintf(b, "  disk %d: device %#x, inode %d, %d bytes, written %s, path hash %016x\n",
			i, d.Device, d.Inode, d.Size, clock(d.MtimeNS), d.PathHash)
	}
	for _, s := range r.Steps {
		fmt.Fprintf(b, "  step %-6v %d to %d ns\n", s.Code, s.StartNS, s.EndNS)
	}
}
