package vm

import (
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/vm/saver"
)

// LastSave is the save that the VM's record still tells of.
type LastSave struct {
	ID        string
	Event     time.Time
	EventNS   int64
	BootID    string
	StateSize int64
	Steps     []saver.Step // relative to the event
}

// LastSave reads the record's own timeline: it is there as soon as the commit is.
func (v *VM) LastSave() (LastSave, bool) {
	if v.area == nil {
		return LastSave{}, false
	}
	rec, err := v.area.Latest()
	if err != nil || rec.Outage == "" {
		return LastSave{}, false
	}
	s := LastSave{ID: rec.Outage, Event: rec.SavedAt, EventNS: rec.EventNS, BootID: rec.BootID.String(), StateSize: int64(rec.StateLength)}
	for _, st := range rec.Steps {
		if st.EndNS != 0 {
			s.Steps = append(s.Steps, saver.Step{Name: st.Code.String(), Start: st.StartNS, End: st.EndNS})
		}
	}
	if n := len(s.Steps); n > 0 {
		s.Event = rec.SavedAt.Add(-time.Duration(s.Steps[n-1].End))
	}
	return s, true
}
