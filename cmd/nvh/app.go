package main

import (
	"context"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/nv-hypervisor/nv-hypervisor/api"
)

// app is one run of nvh: where it reads and writes, and the global flags.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer

	socket string
	format format

	client *api.Client // of the daemon; made by connect
	ran    bool        // the command line was understood: errors are no longer about usage
}

// format is how results are printed.
type format string

const (
	formatTable format = "table"
	formatJSON  format = "json"
)

func (f *format) String() string { return string(*f) }
func (f *format) Type() string   { return "table|json" }
func (f *format) Set(s string) error {
	switch format(s) {
	case formatTable, formatJSON:
		*f = format(s)
		return nil
	}
	return usagef("%q is neither table nor json", s)
}

// run executes one command line and returns the exit code.
func (a *app) run(ctx context.Context, args []string) int {
	root := a.rootCommand()
	root.SetArgs(args)
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	err := root.ExecuteContext(ctx)
	if a.client != nil {
		a.client.Close()
	}
	if err == nil {
		return exitOK
	}
	if !a.ran {
		err = asUsage(err)
		if wantsJSON(args) { // the flag may stand behind what was not understood
			a.format = formatJSON
		}
	}
	return a.report(err)
}

// wantsJSON finds --format json in a command line that could not be parsed.
func wantsJSON(args []string) bool {
	for i, arg := range args {
		if arg == "--" {
			return false
		}
		if arg == "--format=json" || arg == "--format" && i+1 < len(args) && args[i+1] == "json" {
			return true
		}
	}
	return false
}

func (a *app) rootCommand() *cobra.Command {
	a.format = formatTable
	root := &cobra.Command{
		Use:   "nvh",
		Short: "Virtual machines that survive a power cut",
		Long: `nvh controls virtual machines whose memory lies in NVRAM. When the power fails,
nvhd saves the little state that is not in that memory; when it returns, each
guest continues at the next instruction.`,
		SilenceErrors:    true,
		SilenceUsage:     true,
		Args:             cobra.NoArgs,
		RunE:             needsVerb,
		PersistentPreRun: func(*cobra.Command, []string) { a.ran = true },
	}
	socket := os.Getenv("NVH_SOCKET")
	if socket == "" {
		socket = api.DefaultSocket
	}
	root.PersistentFlags().StringVar(&a.socket, "socket", socket, "the daemon's socket; also NVH_SOCKET")
	// The reference must not depend on the environment it is generated in.
	root.PersistentFlags().Lookup("socket").DefValue = api.DefaultSocket
	root.PersistentFlags().Var(&a.format, "format", "how to print results")
	root.RegisterFlagCompletionFunc("format", words("table", "json"))

	root.AddGroup(
		&cobra.Group{ID: "vm", Title: "Virtual machines:"},
		&cobra.Group{ID: "outage", Title: "Power outages:"},
		&cobra.Group{ID: "host", Title: "The host:"})
	add := func(group string, commands ...*cobra.Command) {
		for _, c := range commands {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add("vm", a.createCommand(), a.qemuCommand(), a.startCommand(), a.stopCommand(), a.pauseCommand(), a.resumeCommand(),
		a.lsCommand(), a.infoCommand(), a.consoleCommand(), a.logsCommand(), a.monitorCommand(), a.rmCommand())
	add("outage", a.saveCommand(), a.restoreCommand(), a.suspendCommand(), a.outageCommand(), a.podCommand(), a.eventsCommand())
	add("host", a.nvramCommand(), a.statusCommand(), a.doctorCommand(), a.versionCommand())
	root.AddCommand(a.genCommand())
	return root
}

// connect returns the client of the daemon.
func (a *app) connect() (*api.Client, error) {
	if a.client == nil {
		c, err := api.NewClient(a.socket)
		if err != nil {
			return nil, err
		}
		a.client = c
	}
	return a.client, nil
}

// group returns a command that only holds others.
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: needsVerb}
	c.AddCommand(commands...)
	return c
}

// needsVerb is what a command does that only holds others.
func needsVerb(c *cobra.Command, _ []string) error {
	return withRemedy(usagef("%s: a command is missing", c.CommandPath()), "`"+c.CommandPath()+" --help` lists them.")
}

// words completes a flag or argument from a fixed list.
func words(list ...string) cobra.CompletionFunc {
	return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return list, cobra.ShellCompDirectiveNoFileComp
	}
}

// oneVM completes the name of a VM as the first argument.
func (a *app) oneVM(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	client, err := a.connect()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	infos, err := client.List(c.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, i := range infos {
		names = append(names, i.Name+"\t"+string(i.State))
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
