package record

// take begins a save that was armed against the record with this sequence.
func (a *Area) take(sequence uint64) error {
	if a.turn.CompareAndSwap(sequence<<1, sequence<<1|1) {
		return nil
	}
	if a.turn.Load() == sequence<<1|1 {
		return ErrBusy
	}
	return ErrSuperseded
}

// own begins a change that reads the current record first. It keeps every save
// out until release; a save in progress keeps it out.
func (a *Area) own() error {
	turn := a.turn.Load()
	if turn&1 == 1 || !a.turn.CompareAndSwap(turn, turn|1) {
		return ErrBusy
	}
	return nil
}

// release ends a change; sequence is that of the record that is now current.
func (a *Area) release(sequence uint64) { a.turn.Store(sequence << 1) }
