package main_test

import (
	"bufio"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/nvram"
)

// pools are the kinds of pool that can be tested without NVRAM.
var pools = []struct {
	kind nvram.Kind
	path func(*testing.T) string
}{
	{nvram.KindShm, shmPath},
	{nvram.KindFile, func(t *testing.T) string { return filepath.Join(t.TempDir(), "pool") }},
}

// TestKilledAtPoint kills the program between the steps of one entry. Whatever was committed is there, and nothing else is.
func TestKilledAtPoint(t *testing.T) {
	ledger := compileLinked(t, "testdata/ledger.c")
	for _, pool := range pools {
		t.Run(string(pool.kind), func(t *testing.T) {
			path := pool.path(t)
			want := 0
			for range 3 {
				for _, step := range []struct {
					point string
					adds  int
				}{{"stored", 0}, {"persisted", 0}, {"counted", 1}, {"committed", 1}} {
					out, problem := result(t, command(t, ledger, path, string(pool.kind), step.point))
					if out != strconv.Itoa(want)+"\n" || problem != "signal: killed\n" {
						t.Fatalf("%s: found %q, not %d; %s", step.point, out, want, problem)
					}
					want += step.adds
				}
			}
			if out := output(t, command(t, ledger, path, string(pool.kind), "check")); out != strconv.Itoa(want)+"\n" {
				t.Fatalf("found %q in the end, not %d", out, want)
			}
			wantSound(t, path)
		})
	}
}

// TestKilledAnywhere kills the program at random, often in the middle of nv_alloc or nv_free. The next run finds every entry that was announced, and
// at most the one that was committed and not yet announced.
func TestKilledAnywhere(t *testing.T) {
	ledger := compileLinked(t, "testdata/ledger.c")
	for _, pool := range pools {
		t.Run(string(pool.kind), func(t *testing.T) {
			path := pool.path(t)
			random := rand.New(rand.NewPCG(2014, 1))
			announced, interrupted := 0, 0
			for range 25 {
				found, last := runAndKill(t, command(t, ledger, path, string(pool.kind), "run"), 1+random.IntN(4), time.Duration(random.IntN(6000))*time.Microsecond)
				if found != announced && found != announced+1 {
					t.Fatalf("found %d entries, %d were announced", found, announced)
				}
				announced = last
				report, err := nvram.Check(path)
				must(t, err)
				if !report.OK() {
					t.Fatalf("check: %+v", report.Findings)
				}
				if report.Info.Regions != 1 || len(report.Findings) > 0 {
					interrupted++
				}
			}
			if announced < 25 {
				t.Fatalf("only %d entries in 25 runs", announced)
			}
			t.Logf("%d entries; %d of 25 kills left a region or a change half done", announced, interrupted)
			output(t, command(t, ledger, path, string(pool.kind), "check"))
		})
	}
}

// runAndKill lets the ledger announce some entries, waits a moment longer and kills it. It gives how many entries it found, and
// what it announced last.
func runAndKill(t *testing.T, c *exec.Cmd, entries int, longer time.Duration) (found, last int) {
	t.Helper()
	var stderr strings.Builder
	c.Stderr = &stderr
	out, err := c.StdoutPipe()
	must(t, err)
	must(t, c.Start())
	lines := bufio.NewScanner(out)
	for n := 0; lines.Scan(); n++ {
		last, err = strconv.Atoi(lines.Text())
		must(t, err)
		if n == 0 {
			found = last
		}
		if n == entries {
			time.Sleep(longer)
			must(t, c.Process.Kill())
		}
	}
	if err := c.Wait(); err == nil || err.Error() != "signal: killed" {
		t.Fatalf("%v ended by itself: %v\n%s", c, err, &stderr)
	}
	return found, last
}

func wantSound(t *testing.T, path string) {
	t.Helper()
	report, err := nvram.Check(path)
	must(t, err)
	if len(report.Findings) > 0 {
		t.Fatalf("check: %+v", report.Findings)
	}
}

// TestNvhShowsTheRegions looks at a pool with nvh while a C program has it open, and afterwards.
func TestNvhShowsTheRegions(t *testing.T) {
	nvh := filepath.Join(t.TempDir(), "nvh")
	output(t, exec.Command("go", "build", "-o", nvh, "../cmd/nvh"))
	path := shmPath(t)
	c := command(t, compileLinked(t, "testdata/verbs.c"),
		"init", path, "NULL", "0x4000000", "0", "open", path, "0", "alloc", "cache", "5000000", "write", "4999990", "at the end", "wait")
	input, err := c.StdinPipe()
	must(t, err)
	out, err := c.StdoutPipe()
	must(t, err)
	must(t, c.Start())
	for lines := bufio.NewScanner(out); lines.Scan() && lines.Text() != "wait"; {
		if !strings.HasSuffix(lines.Text(), " ok") {
			t.Fatal(lines.Text())
		}
	}
	look := func() {
		t.Helper()
		wantMatch(t, output(t, exec.Command(nvh, "nvram", "ls", path)), `(?m)^cache +user +6 MiB `)
		wantMatch(t, output(t, exec.Command(nvh, "nvram", "check", path)), `1 regions, 58 MiB of 64 MiB free(.|\n)*: sound\n$`)
	}
	look()
	must(t, input.Close())
	must(t, c.Wait())
	look()

	p, err := nvram.Open(path)
	must(t, err)
	defer p.Close()
	m, err := p.Map("cache")
	must(t, err)
	if got := string(m.Bytes()[4999990:5000000]); got != "at the end" || m.Region.Use != nvram.UseUser {
		t.Fatalf("found %q in a region for %s", got, m.Region.Use)
	}
	must(t, m.Close())
}

func wantMatch(t *testing.T, text, pattern string) {
	t.Helper()
	if !regexp.MustCompile(pattern).MatchString(text) {
		t.Fatalf("%q does not match %q", text, pattern)
	}
}

// The example of the documentation counts its runs.
func TestExample(t *testing.T) {
	counter := compileLinked(t, "example/counter.c")
	path := shmPath(t)
	for _, want := range []string{"1\n", "2\n", "3\n"} {
		if got := output(t, command(t, counter, path)); got != want {
			t.Fatalf("counted %q, not %q", got, want)
		}
	}
}
