package main

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// params are the workload's parameters, documented in the package comment.
type params struct {
	tick      time.Duration
	memoryMiB int
	checkers  int
	loadCPU   bool
	loadDisk  bool
	loadWrite bool
}

func readParams(path string) (params, error) {
	line, err := os.ReadFile(path)
	if err != nil {
		return params{}, fmt.Errorf("kernel command line: %w", err)
	}
	return parseParams(string(line))
}

func parseParams(line string) (params, error) {
	p := params{tick: 200 * time.Millisecond, memoryMiB: 64, checkers: runtime.NumCPU()}
	for _, word := range strings.Fields(line) {
		name, value, _ := strings.Cut(word, "=")
		if !strings.HasPrefix(name, "nvh.") {
			continue
		}
		if err := p.set(name, value); err != nil {
			return params{}, fmt.Errorf("kernel command line: %s: %w", word, err)
		}
	}
	return p, nil
}

func (p *params) set(name, value string) (err error) {
	switch name {
	case "nvh.tick":
		p.tick, err = time.ParseDuration(value)
		if err == nil && p.tick <= 0 {
			err = fmt.Errorf("want more than zero")
		}
	case "nvh.mem":
		p.memoryMiB, err = positive(value)
	case "nvh.cpus":
		p.checkers, err = positive(value)
	case "nvh.load":
		for kind := range strings.SplitSeq(value, ",") {
			switch kind {
			case "cpu":
				p.loadCPU = true
			case "disk":
				p.loadDisk = true
			case "memory":
				p.loadWrite = true
			case "idle":
			default:
				err = fmt.Errorf("unknown load %q, know cpu, disk, memory, idle", kind)
			}
		}
	default:
		err = fmt.Errorf("unknown parameter, know nvh.tick, nvh.mem, nvh.cpus, nvh.load")
	}
	return err
}

func positive(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err == nil && n <= 0 {
		err = fmt.Errorf("want more than zero")
	}
	return n, err
}
