package record

import "errors"

// Errors that callers decide on.
var (
	// ErrNotArea: the region does not hold a VM's state, or its formatting was
	// cut short.
	ErrNotArea = errors.New("not the state region of a VM")
	// ErrNewerVersion: the region was written by a newer NV-Hypervisor.
	ErrNewerVersion = errors.New("state region has a newer format")
	// ErrCorrupt: the header is damaged.
	ErrCorrupt = errors.New("header of the state region is damaged")
	// ErrNoRecord: neither record copy is valid, so nothing is known of the VM's
	// last run. It may be cold-booted, never resumed.
	ErrNoRecord = errors.New("no valid save record")
	// ErrNotSaved: the current record is not a saved image.
	ErrNotSaved = errors.New("no saved image")
	// ErrNotRunning: a save was prepared for a VM that is not marked running.
	ErrNotRunning = errors.New("not marked running")
	// ErrSuperseded: the record changed since the caller read it or armed its
	// save; of a resume it says that the image was already used.
	ErrSuperseded = errors.New("save record was superseded")
	// ErrBusy: another change of this area is in progress.
	ErrBusy = errors.New("save record is being changed")
	// ErrStateCorrupt: the saved volatile state does not match its record.
	ErrStateCorrupt = errors.New("saved state is damaged")
	// ErrLaunchCorrupt: the launch record does not match what the record names.
	ErrLaunchCorrupt = errors.New("launch record is damaged")
	// ErrNoLaunch: the VM was never started, so there is no launch record.
	ErrNoLaunch = errors.New("no launch record")
	// ErrTooLarge: a state, launch record or field exceeds its place.
	ErrTooLarge = errors.New("too large")
	// ErrEmpty: a state or launch record of no bytes.
	ErrEmpty = errors.New("empty")
	// ErrOrder: the steps of a save were called out of order.
	ErrOrder = errors.New("steps of a save out of order: copy, fence, commit")
)
