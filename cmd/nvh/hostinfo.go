package main

import (
	"errors"
	"fmt"
	"maps"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nv-hypervisor/nv-hypervisor/host"
)

// version is set by the build: -ldflags "-X main.version=…".
var version = ""

func (a *app) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Show the state of the daemon", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.connect()
			if err != nil {
				return err
			}
			s, err := client.Status(cmd.Context())
			if err != nil {
				return err
			}
			return show(a, s, printStatus)
		},
	}
}

func printStatus(a *app, s host.Status) error {
	t := newTable(a.stdout)
	t.row("daemon:", fmt.Sprintf("%s, pid %d", s.Version, s.PID))
	config := s.Config
	if config == "" {
		config = "built-in defaults"
	}
	t.row("configuration:", config)
	if s.Outage != "" {
		t.row("outage:", s.Outage+" in progress")
	}
	t.row("outage detectors:", strings.Join(s.Detectors, ", "))
	if p := s.Power; p != nil {
		t.row("power:", joinNonEmpty(", ", p.Phase.String(), p.Source, p.Cause, ago(time.Now(), p.Since)))
	}
	t.row("accelerator:", s.Accel)
	t.row("real time:", yesNo(s.Realtime))
	t.row("vms:", countsOf(s.VMs))
	for _, p := range s.Pools {
		t.row("pool:", fmt.Sprintf("%s, %s, %s of %s free, %s", p.Name, p.Kind, size(p.Free), size(p.Size), p.Path))
		if p.Warning != "" {
			t.row("pool "+p.Name+":", p.Warning)
		}
	}
	for _, w := range s.Warnings {
		t.row("warning:", w)
	}
	return t.flush()
}

// countsOf lists VMs by state: "2 running, 1 saved".
func countsOf(vms map[string]int) string {
	var parts []string
	for _, state := range slices.Sorted(maps.Keys(vms)) {
		parts = append(parts, strconv.Itoa(vms[state])+" "+state)
	}
	if len(parts) == 0 {
		return "none"
	}
	return strings.Join(parts, ", ")
}

// errDoctor is the failure of doctor; the table has said the rest.
var errDoctor = errors.New("a check failed")

func (a *app) doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use: "doctor", Short: "Check whether this host can keep its promises", Args: cobra.NoArgs,
		Long: "Doctor checks the host, the daemon and its pools, and says what to do about each\nfinding. Its exit code is 1 when a check failed; warnings do not count.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.connect()
			if err != nil {
				return err
			}
			checks, err := client.Doctor(cmd.Context())
			if err != nil {
				return err
			}
			if err := show(a, checks, printChecks); err != nil {
				return err
			}
			failed := 0
			for _, c := range checks {
				if c.Status == "fail" {
					failed++
				}
			}
			if failed > 0 {
				return withRemedy(fmt.Errorf("%w: %d of %d", errDoctor, failed, len(checks)), "Follow the remedies above.")
			}
			return nil
		},
	}
}

func printChecks(a *app, checks []host.Check) error {
	t := newTable(a.stdout, "STATUS", "CHECK", "DETAIL", "REMEDY")
	for _, c := range checks {
		t.row(c.Status, c.Name, c.Detail, c.Remedy)
	}
	return t.flush()
}

// versions is the output of `nvh version`.
type versions struct {
	Client string `json:"client"`
	Go     string `json:"go"`
	Daemon string `json:"daemon,omitempty"` // empty: not reachable
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Show the versions of nvh and, if it is reachable, nvhd", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := versions{Client: clientVersion(), Go: runtime.Version()}
			if client, err := a.connect(); err == nil {
				if s, err := client.Status(cmd.Context()); err == nil {
					v.Daemon = s.Version
				}
			}
			return show(a, v, func(a *app, v versions) error {
				daemon := v.Daemon
				if daemon == "" {
					daemon = "not reachable"
				}
				t := newTable(a.stdout)
				t.row("nvh:", v.Client+", "+v.Go)
				t.row("nvhd:", daemon)
				return t.flush()
			})
		},
	}
}

func clientVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}
