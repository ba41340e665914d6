package main

import (
	"runtime"
	"testing"
	"time"
)

func TestParams(t *testing.T) {
	usual := params{tick: 200 * time.Millisecond, memoryMiB: 64, checkers: runtime.NumCPU()}
	with := func(change func(*params)) params {
		p := usual
		change(&p)
		return p
	}
	for line, want := range map[string]params{
		"console=ttyS0 quiet":                 usual,
		"quiet nvh.tick=1s nvh.mem=8":         with(func(p *params) { p.tick, p.memoryMiB = time.Second, 8 }),
		"nvh.load=cpu,disk nvh.cpus=3\n":      with(func(p *params) { p.loadCPU, p.loadDisk, p.checkers = true, true, 3 }),
		"nvh.load=idle":                       usual,
		"nvh.load=memory":                     with(func(p *params) { p.loadWrite = true }),
		"nvh.mem=8 something.nvh.mem=x quiet": with(func(p *params) { p.memoryMiB = 8 }),
	} {
		if got, err := parseParams(line); err != nil || got != want {
			t.Errorf("%q: %+v, %v", line, got, err)
		}
	}
}

func TestBadParamsAreRefused(t *testing.T) {
	for _, line := range []string{"nvh.mem", "nvh.mem=0", "nvh.mem=-1", "nvh.cpus=two", "nvh.tick=0s", "nvh.tick=200", "nvh.load=gpu", "nvh.x=1"} {
		if p, err := parseParams(line); err == nil {
			t.Errorf("%q gave %+v", line, p)
		}
	}
}
