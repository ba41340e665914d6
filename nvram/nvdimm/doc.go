// Package nvdimm reads and writes the state of memory modules (DIMMs) through Linux's NVDIMM subsystem: their health
// flags, the regions of memory they make up together, and their label storage areas.
//
// What the kernel shows is described in its Documentation/driver-api/nvdimm/nvdimm.rst and
// Documentation/ABI/testing/sysfs-bus-nfit, and in linux/ndctl.h. The kernel learns most of it from the firmware when it
// boots (ACPI 6.5, section 5.2.26, NFIT) and some of it when the firmware notifies it.
//
// Reading changes nothing and is cheap: some ten small files. After a power cut during WriteLabels the
// label storage area holds any mixture of old and new bytes; the kernel's own label format has
// checksums and two copies, and survives that when the write was of one copy.
//
// A System may be used by several goroutines. Labels belongs to one at a time.
package nvdimm
