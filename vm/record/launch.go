package record

import (
	"crypto/sha256"
	"fmt"
)

// WriteLaunch stores a launch record (definition, QEMU version, arguments) in
// the copy that the current record does not name. It is durable when
// WriteLaunch returns and takes effect with the MarkRunning that names it; until
// then another WriteLaunch replaces it.
func (a *Area) WriteLaunch(p []byte) (LaunchRef, error) {
	const step = "write launch record"
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case len(p) == 0:
		return LaunchRef{}, a.name(step, ErrEmpty)
	case len(p) > MaxLaunch:
		return LaunchRef{}, a.name(step, fmt.Errorf("%d bytes, at most %d fit: %w", len(p), MaxLaunch, ErrTooLarge))
	}
	if err := a.own(); err != nil {
		return LaunchRef{}, a.name(step, err)
	}
	defer a.release(a.turn.Load() >> 1)

	now := a.highest()
	ref := LaunchRef{Index: 0, SHA256: sha256.Sum256(p)}
	if now.Launch.Index == 0 {
		ref.Index = 1
	}
	var prefix [launchPrefix]byte
	put64(prefix[:], launchMagicAt, launchMagic)
	put64(prefix[:], launchLengthAt, uint64(len(p)))
	copy(prefix[launchSHA256At:], ref.SHA256[:])
	at := launchAt(ref.Index)
	a.mem.Store(at, prefix[:])
	a.mem.Store(at+launchPrefix, p)
	a.mem.Flush(at, launchPrefix+len(p))
	if err := a.mem.Fence(); err != nil {
		return LaunchRef{}, a.name(step, err)
	}
	return ref, nil
}

// Launch returns a copy of the launch record that the current record names,
// after checking its SHA-256. Its errors are [ErrNoLaunch], [ErrLaunchCorrupt]
// and those of Latest.
func (a *Area) Launch() ([]byte, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	r, err := a.latest()
	if err != nil {
		return nil, err
	}
	p, err := a.launch(r.Launch)
	if err != nil {
		return nil, a.name("read launch record", err)
	}
	return p, nil
}

func (a *Area) launch(ref LaunchRef) ([]byte, error) {
	if ref.Index < 0 || ref.Index > 1 {
		return nil, fmt.Errorf("start the VM once to write one: %w", ErrNoLaunch)
	}
	b := a.mem.Bytes()[launchAt(ref.Index):][:launchDistance]
	length := get64(b, launchLengthAt)
	if get64(b, launchMagicAt) != launchMagic || length > MaxLaunch {
		return nil, fmt.Errorf("copy %d: %w", ref.Index, ErrLaunchCorrupt)
	}
	p := append([]byte(nil), b[launchPrefix:][:length]...)
	if Digest(sha256.Sum256(p)) != ref.SHA256 || Digest(b[launchSHA256At:]) != ref.SHA256 {
		return nil, fmt.Errorf("copy %d does not match the SHA-256 that the record names: %w", ref.Index, ErrLaunchCorrupt)
	}
	return p, nil
}

// checkLaunch reports whether the launch record named is whole.
func (a *Area) checkLaunch(ref LaunchRef) error {
	_, err := a.launch(ref)
	return err
}
