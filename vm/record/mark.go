package record

import "fmt"

// MarkRunning records a cold boot with the given launch record: next
// generation, running. An image, if there was one, is gone for good. When it
// returns without error all that is durable, and only then may the first guest
// instruction run. It also works when Latest returns [ErrNoRecord].
func (a *Area) MarkRunning(launch LaunchRef) (Record, error) {
	return a.mark("mark running", func(now Record) (Record, error) {
		if err := a.checkLaunch(launch); err != nil {
			return Record{}, err
		}
		return Record{
			Generation: now.Generation + 1,
			Status:     StatusRunning,
			Launch:     launch,
			Slot:       now.Slot,
		}, nil
	})
}

// MarkResumed records that the image of saved, a record that Latest returned,
// is resumed: next generation, running. The guest may run only after it
// returned without error. Of all callers with the same image one succeeds; the
// others get [ErrSuperseded] or [ErrBusy]. The record keeps what saved said of
// the save, so its timeline is not lost with the image.
func (a *Area) MarkResumed(saved Record) (Record, error) {
	return a.resume("mark resumed", saved, "")
}

// MarkVoid is MarkResumed for a VM that never died: the outage passed and its
// QEMU goes on in place, so the image must not be used any more.
func (a *Area) MarkVoid(saved Record) (Record, error) {
	return a.resume("void the image", saved, "resumed in place")
}

func (a *Area) resume(step string, saved Record, note string) (Record, error) {
	return a.mark(step, func(now Record) (Record, error) {
		switch {
		case saved.Status != StatusSaved:
			return Record{}, fmt.Errorf("generation %d is %v: %w", saved.Generation, saved.Status, ErrNotSaved)
		case now.Sequence != saved.Sequence || now.Status != StatusSaved:
			return Record{}, fmt.Errorf("the image of generation %d was already used, the VM is %v in generation %d: %w",
				saved.Generation, now.Status, now.Generation, ErrSuperseded)
		}
		now.Generation++
		now.Status = StatusRunning
		now.Note = note
		return now, nil
	})
}

// MarkStopped records that the VM has ended and there is nothing to resume. An
// image, if there was one, is gone for good. The note, cut at MaxNote bytes,
// says why.
func (a *Area) MarkStopped(note string) (Record, error) {
	return a.mark("mark stopped", func(now Record) (Record, error) {
		now.Status = StatusStopped
		now.Note = note[:min(len(note), MaxNote)]
		return now, nil
	})
}

// mark writes the record that next makes of the current one and then destroys
// the current one.
func (a *Area) mark(step string, next func(now Record) (Record, error)) (Record, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.own(); err != nil {
		return Record{}, a.name(step, err)
	}
	current := a.turn.Load() >> 1
	defer func() { a.release(current) }()

	now := a.highest()
	r, err := next(now)
	if err != nil {
		return Record{}, a.name(step, err)
	}
	r.Sequence = now.Sequence + 1
	for r.Sequence <= current {
		// The medium has lost the current record. An old number must not be used
		// again, or a save armed against it would find nothing changed; nor may
		// the other copy be, which holds what is left.
		r.Sequence += 2
	}
	r.RAM, r.RAMSize = a.id.RAM, a.id.RAMSize
	if err := r.validate(); err != nil {
		return Record{}, a.name(step, err)
	}
	if err := a.write(&r); err != nil {
		current = r.Sequence // used up, whether it became durable or not
		return Record{}, a.name(step, err)
	}
	current = r.Sequence
	// This is what makes "once" hold on a medium that may later lose the record
	// just written: there is no older one to be mistaken for the current.
	if err := a.destroy(now.Sequence); err != nil {
		return Record{}, a.name(step, err)
	}
	return r, nil
}

// write makes a record current. Its body is durable before its commit word, so
// a power cut never leaves a commit word that does not match.
func (a *Area) write(r *Record) error {
	if err := a.destroy(r.Sequence); err != nil {
		return err
	}
	body := r.encode(a.id.VM)
	at := copyAt(r.Sequence)
	a.mem.Store(at+wordSize, body[wordSize:])
	a.mem.Flush(at, recordSize)
	if err := a.mem.Fence(); err != nil {
		return err
	}
	return storeWord(a.mem, at+wordAt, recordWord(body))
}

// destroy durably invalidates whatever is in the copy that the record with this
// sequence belongs to.
func (a *Area) destroy(sequence uint64) error {
	at := copyAt(sequence) + wordAt
	if get64(a.mem.Bytes(), at) == 0 && !a.unsure {
		return nil
	}
	if err := storeWord(a.mem, at, 0); err != nil {
		a.unsure = true
		return err
	}
	return nil
}
