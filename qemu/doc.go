// Package qemu owns one stock QEMU process: what it is started with, how it is
// spoken to, how its volatile state leaves it and enters the next one.
//
// What is guaranteed:
//
//   - A Launch is complete. Nothing in it depends on QEMU's defaults, on the time
//     or on a path of the running host, so the QEMU that loads a saved state is
//     given exactly the hardware of the QEMU that saved it, even if the pool has
//     moved to another host. What differs per run (sockets, logs, where the RAM
//     lies) is a Runtime.
//   - A process outlives the program that started it: it has its own session, no
//     pipe to its parent, and is found again by Adopt, which never mistakes a
//     recycled pid for it.
//   - Load and Dump only read and write the volatile state. The guest's RAM is a
//     shared mapping that neither of them copies; a failed Load leaves both the
//     state and, because no guest instruction has run, the RAM as they were.
//   - What a QEMU can do is asked of that QEMU, once per binary, and never
//     guessed from its version.
//
// All methods of a Process may be called concurrently.
package qemu
