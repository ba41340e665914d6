package nvram

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// metadataPath is the file with the metadata.
func (c poolCase) metadataPath(path string) string {
	if c.layout == LayoutDirectory {
		return filepath.Join(path, metadataFile)
	}
	return path
}

// patch changes bytes of a file behind everybody's back.
func patch(t *testing.T, file string, off int, b []byte) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	must(t, err)
	_, err = f.WriteAt(b, int64(off))
	must(t, errors.Join(err, f.Close()))
}

func flipByte(t *testing.T, file string, off int) {
	t.Helper()
	b := make([]byte, 1)
	f, err := os.Open(file)
	must(t, err)
	_, err = f.ReadAt(b, int64(off))
	must(t, errors.Join(err, f.Close()))
	patch(t, file, off, []byte{b[0] ^ 0x10})
}

func newerHead() []byte {
	head := encodeHead()
	wire.PutUint32(head[8:], formatVersion+1)
	wire.PutUint32(head[12:], headChecksum(head))
	return head
}

// TestRefusals damages a pool with two regions in every way that must not be opened, and wants the same verdict of all who look at it.
func TestRefusals(t *testing.T) {
	tests := []struct {
		name   string
		damage func(t *testing.T, file string)
		want   error
	}{
		{"both copies corrupt", func(t *testing.T, file string) {
			flipByte(t, file, copyOffset(0)+headerSize)
			flipByte(t, file, copyOffset(1)+headerSize)
		}, ErrCorrupt},
		{"selector corrupt and copies differ", func(t *testing.T, file string) {
			flipByte(t, file, selectorOffset)
			flipByte(t, file, copyOffset(1)+headerSize)
		}, ErrCorrupt},
		{"selector lost and a copy corrupt", func(t *testing.T, file string) {
			patch(t, file, selectorOffset, make([]byte, 8))
			flipByte(t, file, copyOffset(1)+headerSize)
		}, ErrCorrupt},
		{"newer version", func(t *testing.T, file string) { patch(t, file, 0, newerHead()) }, ErrNewerVersion},
		{"truncated", func(t *testing.T, file string) { must(t, os.Truncate(file, 100*1024)) }, ErrTruncated},
		{"emptied", func(t *testing.T, file string) { must(t, os.Truncate(file, 0)) }, ErrNotPool},
		{"overwritten with zeros", func(t *testing.T, file string) { patch(t, file, 0, make([]byte, metadataSize)) }, ErrNotPool},
		{"overwritten with something else", func(t *testing.T, file string) {
			patch(t, file, 0, bytes.Repeat([]byte("somebody's data "), metadataSize/16))
		}, ErrForeign},
		{"something else in front of zeros", func(t *testing.T, file string) {
			patch(t, file, 0, make([]byte, metadataSize))
			patch(t, file, 1080, []byte{0x53, 0xef}) // where ext4 keeps its magic
		}, ErrForeign},
		{"overwritten by a small file", func(t *testing.T, file string) { must(t, os.WriteFile(file, []byte("#!/bin/sh\n"), 0o600)) }, ErrForeign},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			forEachCase(t, func(t *testing.T, c poolCase, path string) {
				c.init(t, path, 6*MiB)
				p := mustOpen(t, path)
				mustAlloc(t, p, Request{"a", MiB, UseUser}, Request{"b", MiB, UseUser})
				must(t, p.Close())
				file := c.metadataPath(path)
				test.damage(t, file)
				before, err := os.ReadFile(file)
				must(t, err)

				_, err = Open(path)
				wantError(t, err, test.want, path)
				_, err = OpenReadOnly(path)
				wantError(t, err, test.want, path)
				report, err := Check(path)
				must(t, err)
				if report.OK() || !errors.Is(report.Err(), test.want) || report.Findings[0].Remedy == "" {
					t.Errorf("check says %+v", report)
				}
				if err := Dump(path, &bytes.Buffer{}); err != nil && !errors.Is(err, test.want) {
					t.Errorf("dump says %v", err)
				}
				after, err := os.ReadFile(file)
				must(t, err)
				if !bytes.Equal(before, after) {
					t.Error("looking at it changed it")
				}
				wantInit(t, c, path, file, test.want)
			})
		})
	}
}

// wantInit wants that Init overwrites nothing but emptiness, unless forced.
func wantInit(t *testing.T, c poolCase, path, file string, want error) {
	t.Helper()
	before, err := os.ReadFile(file)
	must(t, err)
	o := InitOptions{Path: path, Kind: c.kind, Size: 6 * MiB}
	if want != ErrNotPool {
		wantError(t, Init(o), want, path)
		after, err := os.ReadFile(file)
		must(t, err)
		if !bytes.Equal(before, after) {
			t.Fatal("a refused Init changed it")
		}
		o.Force = true
	}
	must(t, Init(o))
	p := mustOpen(t, path)
	if n := len(p.Regions()); n != 0 {
		t.Errorf("the new pool has %d regions", n)
	}
	mustAlloc(t, p, Request{"a", MiB, UseUser})
	must(t, p.Close())
	mustCheck(t, path)
}

func TestOneDamagedPlaceIsRepaired(t *testing.T) {
	places := map[string]int{
		"head": 3, "selector": selectorOffset + 1, "selector's check": selectorOffset + 7,
		"header of copy 0": copyOffset(0) + 20, "header of copy 1": copyOffset(1) + 20,
		"entry in copy 0": copyOffset(0) + headerSize + 5, "entry in copy 1": copyOffset(1) + headerSize + 5,
		"count in copy 0": copyOffset(0) + 71, "count in copy 1": copyOffset(1) + 71,
	}
	for place, off := range places {
		t.Run(place, func(t *testing.T) {
			forEachCase(t, func(t *testing.T, c poolCase, path string) {
				c.init(t, path, 4*MiB)
				p := mustOpen(t, path)
				want := mustAlloc(t, p, Request{"a", MiB, UseUser})
				must(t, p.Close())
				flipByte(t, c.metadataPath(path), off)

				report, err := Check(path)
				must(t, err)
				if !report.OK() || len(report.Findings) == 0 {
					t.Errorf("check says %+v", report)
				}
				p = mustOpen(t, path)
				if got := p.Regions(); len(got) != 1 || got[0].ID != want[0].ID {
					t.Errorf("regions are %+v", got)
				}
				must(t, p.Close())
				mustCheck(t, path)
			})
		})
	}
}

func TestInitKeepsWhatIsThere(t *testing.T) {
	forEachCase(t, func(t *testing.T, c poolCase, path string) {
		c.init(t, path, 16*MiB)
		p := mustOpen(t, path)
		mustAlloc(t, p, Request{"a", MiB, UseUser})
		first := p.Info().ID
		wantError(t, Init(InitOptions{Path: path, Kind: c.kind, Force: true}), ErrLocked, path)
		must(t, p.Close())
		wantError(t, Init(InitOptions{Path: path, Kind: c.kind}), ErrExists, path)

		must(t, Init(InitOptions{Path: path, Kind: c.kind, Size: 32 * MiB, Force: true}))
		p = mustOpen(t, path)
		info := p.Info()
		if info.ID == first || info.Regions != 0 || info.Size != 32*MiB {
			t.Errorf("the forced pool is %+v", info)
		}
		must(t, p.Close())
		mustCheck(t, path)
	})
}

func TestInitRefusesDirectoryInUse(t *testing.T) {
	dir := shmDir(t)
	must(t, os.WriteFile(filepath.Join(dir, "letter.txt"), []byte("dear"), 0o600))
	wantError(t, Init(InitOptions{Path: dir, Kind: KindShm, Size: 4 * MiB}), ErrForeign, dir)
	if _, err := os.Stat(filepath.Join(dir, metadataFile)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a refused Init left its file: %v", err)
	}
	must(t, Init(InitOptions{Path: dir, Kind: KindShm, Size: 4 * MiB, Force: true}))
	must(t, mustOpen(t, dir).Close())
	if text, err := os.ReadFile(filepath.Join(dir, "letter.txt")); err != nil || string(text) != "dear" {
		t.Errorf("the other file is %q, %v", text, err)
	}
}

// A device that is not there is not made up for by a directory of its name.
func TestInitMakesNoDevice(t *testing.T) {
	const missing = "/dev/dax-that-is-not-there"
	if err := Init(InitOptions{Path: missing}); err == nil || !strings.Contains(err.Error(), "no such device") {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(missing); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something was made: %v", err)
	}
}

func TestInitRefusesBadOptions(t *testing.T) {
	dir := shmDir(t)
	file := filepath.Join(dir, "file")
	must(t, os.WriteFile(file, make([]byte, 4*MiB), 0o600))
	tests := []struct {
		name string
		o    InitOptions
		want string
	}{
		{"unknown kind", InitOptions{Path: filepath.Join(dir, "p"), Kind: "tape"}, "unknown kind"},
		{"directory as a single pool", InitOptions{Path: dir, Kind: KindShm, Layout: LayoutSingle}, "directory"},
		{"file as a directory", InitOptions{Path: file, Kind: KindShm, Layout: LayoutDirectory}, "directory"},
		{"file as a device", InitOptions{Path: file, Kind: KindDevDAX}, "devdax"},
		{"device that is not there", InitOptions{Path: filepath.Join(dir, "dax0.0"), Kind: KindDevDAX}, "no such device"},
		{"character device that is none of DAX", InitOptions{Path: "/dev/null", Kind: KindDevDAX, Force: true}, "not a DAX device"},
		{"too small", InitOptions{Path: filepath.Join(dir, "p"), Kind: KindShm, Layout: LayoutSingle, Size: MiB}, "too small"},
		{"larger than the file system", InitOptions{Path: filepath.Join(dir, "p"), Kind: KindShm, Size: 1000 * TiB}, "more than"},
		{"single file without a size", InitOptions{Path: filepath.Join(dir, "p"), Kind: KindShm, Layout: LayoutSingle}, "too small"},
		{"parent that is not there", InitOptions{Path: filepath.Join(dir, "p", "q"), Kind: KindShm}, "no such file"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			err := Init(test.o)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("error is %v, want one that says %q", err, test.want)
			}
			if entries, _ := os.ReadDir(dir); len(entries) != 1 {
				t.Errorf("it left %v", entries)
			}
		})
	}
}

func TestDumpShowsDamagedPools(t *testing.T) {
	forEachCase(t, func(t *testing.T, c poolCase, path string) {
		c.init(t, path, 16*MiB)
		p := mustOpen(t, path)
		r := mustAlloc(t, p, Request{"database", MiB, UseRAM})
		must(t, p.Close())
		flipByte(t, c.metadataPath(path), copyOffset(0)+40)
		flipByte(t, c.metadataPath(path), copyOffset(1)+40)
		var out bytes.Buffer
		must(t, Dump(path, &out))
		for _, want := range []string{"database", r[0].ID.String(), string(c.kind), "checksum differs", "corrupt", "change 2"} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("dump lacks %q:\n%s", want, out.String())
			}
		}
	})
}

func TestRegionTruncatedOrReplaced(t *testing.T) {
	tests := []struct {
		name   string
		damage func(t *testing.T, r Region)
		want   error
	}{
		{"truncated", func(t *testing.T, r Region) { must(t, os.Truncate(r.Path, int64(r.Offset+MiB))) }, ErrTruncated},
		{"grown", func(t *testing.T, r Region) { must(t, os.Truncate(r.Path, int64(r.Size+MiB))) }, ErrReplaced},
		{"missing", func(t *testing.T, r Region) { must(t, os.Remove(r.Path)) }, ErrTruncated},
		{"replaced", func(t *testing.T, r Region) {
			content, err := os.ReadFile(r.Path)
			must(t, err)
			must(t, os.WriteFile(r.Path+"-copy", content, 0o600))
			must(t, os.Rename(r.Path+"-copy", r.Path))
		}, ErrReplaced},
		{"replaced by a link", func(t *testing.T, r Region) {
			must(t, os.Rename(r.Path, r.Path+"-moved"))
			must(t, os.Symlink(r.Path+"-moved", r.Path))
		}, nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			for _, c := range poolCases {
				if c.layout == LayoutSingle && test.name != "truncated" {
					continue // what holds all regions cannot be replaced or grow under one of them
				}
				t.Run(c.name, func(t *testing.T) {
					path := c.path(t)
					c.init(t, path, 16*MiB)
					p := mustOpen(t, path)
					regions := mustAlloc(t, p, Request{"good", 2 * MiB, UseRAM}, Request{"bad", 2 * MiB, UseRAM})
					test.damage(t, regions[1])
					must(t, p.Verify(regions[0]))
					err := p.Verify(regions[1])
					if err == nil {
						t.Fatal("nothing was noticed")
					}
					if test.want != nil {
						wantError(t, err, test.want, path)
					}
					if _, mapErr := p.Map("bad"); mapErr == nil {
						t.Error("it was mapped all the same")
					}
					report, err := Check(path)
					must(t, err)
					if report.OK() || !strings.Contains(fmt.Sprint(report.Findings), "bad") {
						t.Errorf("check says %+v", report.Findings)
					}
				})
			}
		})
	}
}
