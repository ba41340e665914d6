// Package record keeps what a power cut must not take from a persistent VM,
// beside its RAM: who it is, how it was launched, its volatile state (vCPU
// registers and devices), and one small save record that says what may be done
// with all that.
//
// These are the bytes of a VM's state region in NVRAM; layout.go draws them.
// The package guarantees, after a power cut between any two instructions:
//
//   - Before or after. Every operation that changes the record is seen by
//     [Area.Latest] as not begun or as complete. A power cut alone never leaves
//     anything that [Area.Check] calls damage: what Check reports is the fault of
//     the medium.
//   - Valid or refused. A record with [StatusSaved] is found only when the state
//     it names was durable before it; [Area.State] returns that state only when
//     its length and checksum are right.
//   - Exactly once. [Area.MarkResumed] returns only when the record that says
//     "running, next generation" is durable and the saved record is durably
//     destroyed, as every mark destroys its predecessor. The caller lets the guest run only after that, so a saved record
//     that is found means that no guest instruction has run since the save, even
//     if the medium has lost the newer record.
//   - The current image is never overwritten: a save goes to the slot, and a
//     launch record to the copy, that the current record does not name.
//
// An [Area] may be used by several goroutines. Changes exclude each other: a
// save owns the area from its first [Commit.Copy] to [Commit.Commit] or
// [Commit.Abort], and whoever comes in between gets [ErrBusy] at once; nobody
// waits, least of all the save. Reading is always possible. There must be one
// Area for a region at a time, which the lock on the pool ensures.
package record
