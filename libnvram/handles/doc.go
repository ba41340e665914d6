// Package handles is libnvram without the C: the pools a process has open, by number, and the regions it has mapped, by address.
//
// What a C program can rely on:
//
//   - A number is never given twice, so a pool that was closed is refused and never mistaken for a later one.
//   - Close waits for the calls that use the pool; Free and Close wait for a Persist of the memory they unmap.
//   - A region that belongs to a virtual machine is listed, and is neither mapped nor freed.
//   - Durability is that of package nvram: what Alloc, Free or Persist has returned for, no power cut undoes.
//
// A Table may be used by several threads at once.
package handles
