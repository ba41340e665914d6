// Libnvram is the C ABI of package nvram: a shared library, with the header nvram.h. Abi.c checks the arguments and keeps the thread's last
// error, process.c keeps the Go runtime from changing the program it is loaded into, and this file translates between C and package
// handles. What a C program is guaranteed stands in nvram.h.
package main

// #include "abi.h"
import "C"

import (
	"unsafe"

	"github.com/nv-hypervisor/nv-hypervisor/libnvram/handles"
	"github.com/nv-hypervisor/nv-hypervisor/nvram"
)

// open is what this process has open.
var open handles.Table

func init() { C.restore_file_limit() }

func main() {} // a shared library has one and never calls it

//export nvgo_attach
func nvgo_attach() {}

// Strings come with their length, measured in C: a bad pointer is to fault there, where the program's own handler is asked.

//export nvgo_init
func nvgo_init(path *C.char, pathLength C.size_t, kind *C.char, kindLength C.size_t, size C.size_t, single C.int, f *C.struct_failure) C.int {
	o := nvram.InitOptions{Path: text(path, pathLength), Kind: nvram.Kind(text(kind, kindLength)), Size: nvram.Bytes(size)}
	if single != 0 {
		o.Layout = nvram.LayoutSingle
	}
	return status(nvram.Init(o), f)
}

//export nvgo_open
func nvgo_open(path *C.char, length C.size_t, readOnly C.int, f *C.struct_failure) C.uint64_t {
	number, err := open.Open(text(path, length), readOnly != 0)
	status(err, f)
	return C.uint64_t(number)
}

//export nvgo_close
func nvgo_close(pool C.uint64_t, f *C.struct_failure) C.int {
	return status(open.Close(uint64(pool)), f)
}

//export nvgo_alloc
func nvgo_alloc(pool C.uint64_t, name *C.char, length, size C.size_t, f *C.struct_failure) C.uintptr_t {
	address, err := open.Alloc(uint64(pool), text(name, length), nvram.Bytes(size))
	status(err, f)
	return C.uintptr_t(address)
}

//export nvgo_map
func nvgo_map(pool C.uint64_t, name *C.char, length C.size_t, size *C.size_t, f *C.struct_failure) C.uintptr_t {
	address, n, err := open.Map(uint64(pool), text(name, length))
	if status(err, f) == 0 {
		*size = C.size_t(n)
	}
	return C.uintptr_t(address)
}

//export nvgo_free
func nvgo_free(pool C.uint64_t, name *C.char, length C.size_t, f *C.struct_failure) C.int {
	return status(open.Free(uint64(pool), text(name, length)), f)
}

//export nvgo_persist
func nvgo_persist(address C.uintptr_t, size C.size_t, f *C.struct_failure) C.int {
	return status(open.Persist(uintptr(address), nvram.Bytes(size)), f)
}

//export nvgo_list
func nvgo_list(pool C.uint64_t, out *C.nv_region, capacity C.size_t, f *C.struct_failure) C.int {
	regions, err := open.Regions(uint64(pool))
	if err != nil {
		return status(err, f)
	}
	room := unsafe.Slice(out, min(int(min(capacity, nvram.MaxRegions)), len(regions)))
	for i := range room {
		r := &regions[i]
		room[i] = C.nv_region{size: C.uint64_t(r.Size), created: C.int64_t(r.Created.Unix())}
		put(room[i].name[:], r.Name)
		put(room[i].use[:], string(r.Use))
		put(room[i].id[:], r.ID.String())
	}
	return C.int(len(regions))
}

//export nvgo_info
func nvgo_info(pool C.uint64_t, out *C.nv_pool_info, f *C.struct_failure) C.int {
	info, err := open.Info(uint64(pool))
	if err != nil {
		return status(err, f)
	}
	*out = C.nv_pool_info{
		size: C.uint64_t(info.Size), free: C.uint64_t(info.Free), largest_free: C.uint64_t(info.LargestFree),
		unit: C.uint64_t(info.Unit), regions: C.uint64_t(info.Regions),
	}
	put(out.kind[:], string(info.Kind))
	put(out.layout[:], string(info.Layout))
	put(out.persistence[:], info.Persistence)
	put(out.id[:], info.ID.String())
	return 0
}

func text(p *C.char, length C.size_t) string {
	return string(unsafe.Slice((*byte)(unsafe.Pointer(p)), int(length)))
}

// put copies what fits, and ends it with a zero.
func put(dst []C.char, s string) {
	n := min(len(s), len(dst)-1)
	for i := range n {
		dst[i] = C.char(s[i])
	}
	dst[n] = 0
}

// status gives what a C function returns, and tells abi.c the rest of an error.
func status(err error, f *C.struct_failure) C.int {
	if err == nil {
		return 0
	}
	f.code = C.int(handles.Code(err))
	put(f.text[:], err.Error())
	return -1
}
