package nvram

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"slices"
	"testing"
)

// FuzzRecover gives recovery arbitrary metadata. What it accepts must be consistent and come back the same; it must never panic.
func FuzzRecover(f *testing.F) {
	for _, seed := range fuzzSeeds() {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, compact []byte) {
		meta := expandMeta(compact)
		table, _, err := recoverTable(meta)
		if err != nil {
			for _, known := range []error{ErrNotPool, ErrForeign, ErrCorrupt, ErrNewerVersion} {
				if errors.Is(err, known) {
					return
				}
			}
			t.Fatalf("error without a name: %v", err)
		}
		must(t, table.check())
		again, err := decodeTable(append(encodeTable(table), make([]byte, copySize)...)[:copySize])
		must(t, err)
		if !bytes.Equal(encodeTable(again), encodeTable(table)) {
			t.Fatal("it does not come back the same")
		}
		// Repair leaves metadata at rest that says the same.
		must(t, repair(imageMemory{&syncMemory{data: meta}}, table))
		if repaired, findings, err := recoverTable(meta); err != nil || len(findings) > 0 || !bytes.Equal(encodeTable(repaired), encodeTable(table)) {
			t.Fatalf("after repair: %v %+v", err, findings)
		}
	})
}

// The fuzzer's input is the metadata without its empty middle: head and selector, then a length and a copy, twice. Bit 15 of
// the length asks for a correct checksum, so that the fuzzer also reaches what lies behind it.
func expandMeta(compact []byte) []byte {
	meta := make([]byte, metadataSize)
	compact = compact[copy(meta[:selectorOffset+8], compact):]
	for i := range uint64(2) {
		if len(compact) < 2 {
			break
		}
		length := int(binary.LittleEndian.Uint16(compact))
		compact = compact[2:]
		at := meta[copyOffset(i):][:copySize]
		n := copy(at, compact[:min(length&0x7fff, len(compact))])
		compact = compact[n:]
		if count := wire.Uint32(at[68:]); length&0x8000 != 0 && count <= MaxRegions {
			sealCopy(at)
		}
	}
	return meta
}

func compactMeta(meta []byte, seal bool) []byte {
	compact := slices.Clone(meta[:selectorOffset+8])
	for i := range uint64(2) {
		at := meta[copyOffset(i):][:copySize]
		n := headerSize + int(min(wire.Uint32(at[68:]), MaxRegions))*entrySize
		length := uint16(n)
		if seal {
			length |= 0x8000
		}
		compact = binary.LittleEndian.AppendUint16(compact, length)
		compact = append(compact, at[:n]...)
	}
	return compact
}

func sealCopy(at []byte) {
	n := headerSize + int(wire.Uint32(at[68:]))*entrySize
	wire.PutUint32(at[8:], crc32.Checksum(at[12:n], castagnoli))
}

// fuzzSeeds are pools of both layouts, at rest, between two changes, damaged, and inconsistent behind a correct checksum.
func fuzzSeeds() [][]byte {
	seeds := [][]byte{nil, encodeHead(), newerHead(), bytes.Repeat([]byte("foreign "), 100)}
	for _, layout := range []Layout{LayoutDirectory, LayoutSingle} {
		t := crashTable(layout)
		meta := make([]byte, metadataSize)
		mem := imageMemory{&syncMemory{data: meta}}
		_ = format(mem, t) // a slice does not fail
		seeds = append(seeds, compactMeta(meta, false))
		next, err := t.add([]Request{{"a", crashUnit, UseRAM}, {"b", crashUnit, UseState}}, t.created)
		if err != nil {
			panic(err)
		}
		mem.Copy(copyOffset(next.sequence), encodeTable(next))
		seeds = append(seeds, compactMeta(meta, false))
		_ = storeSelector(mem, next.sequence)
		seeds = append(seeds, compactMeta(meta, false), compactMeta(meta, true))
		for _, off := range []int{headOffset, selectorOffset, copyOffset(0), copyOffset(1) + headerSize + 17, copyOffset(1) + headerSize + 25, copyOffset(1) + 65} {
			damaged := slices.Clone(meta)
			damaged[off] ^= 0x11
			seeds = append(seeds, compactMeta(damaged, true), compactMeta(damaged, false))
		}
	}
	return seeds
}
