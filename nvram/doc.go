// Package nvram turns non-volatile memory into pools and pools into regions: a virtual machine's RAM,
// its save slots and its records are regions.
//
// What is guaranteed after a power cut, or the death of the process, at any instruction:
//
//   - Alloc, Free and Rename happened completely or not at all, however many regions one call names.
//     Once a call has returned, a cut undoes nothing of it.
//   - A region that is listed has its backing: right size, zeroed when it was allocated, preallocated, so that
//     touching it needs no block allocation and raises no SIGBUS.
//   - No region ever shows what an earlier owner left in the memory.
//   - After a call has returned, both copies of the region table say the same, so damage to either
//     one loses nothing; Open repairs it.
//   - A pool is either opened as what was committed, or refused with a named error. Nothing is guessed.
//
// "Persistent" means what the kind of the pool can give: devdax and fsdax survive power loss, file survives
// it on the battery tier, shm survives every process but not the host.
//
// Every persistent byte is written through a Memory: Store, Flush, Fence. That is what package nvramtest records, and
// how the guarantees above are tested: each flush and fence in this package is there because a test fails without it.
//
// A Pool may be used by several goroutines. A Memory or a Mapping belongs to one goroutine at a time.
package nvram
