package main

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nv-hypervisor/nv-hypervisor/host"
)

func (a *app) monitorCommand() *cobra.Command {
	var qmp string
	c := &cobra.Command{
		Use: "monitor NAME [HMP-WORD… | --qmp JSON]", Short: "Send one command to the monitor of a VM's QEMU",
		Long: `Monitor sends one line to QEMU's human monitor, or one QMP command, and prints the
answer. Words that begin with a dash go behind --. It is meant for looking: commands
that look are passed (info, query-…), and while the guest runs also its buttons, such
as system_powerdown, sendkey and nmi. All others are refused, because they could make
the image worthless that an outage saves.`,
		Example: "  nvh monitor web info status\n  nvh monitor web --qmp '{\"execute\":\"query-block\"}'",
		Args:    cobra.MinimumNArgs(1), ValidArgsFunction: a.oneVM,
		RunE: func(cmd *cobra.Command, args []string) error {
			req, err := monitorRequest(strings.Join(args[1:], " "), qmp)
			if err != nil {
				return err
			}
			client, err := a.connect()
			if err != nil {
				return err
			}
			answer, err := client.Monitor(cmd.Context(), args[0], req)
			if err != nil {
				return err
			}
			return show(a, answer, printAnswer)
		},
	}
	c.Flags().StringVar(&qmp, "qmp", "", "a QMP command, with its arguments")
	return c
}

func monitorRequest(hmp, qmp string) (host.MonitorRequest, error) {
	switch {
	case (hmp == "") == (qmp == ""):
		return host.MonitorRequest{}, usagef("give either words for the human monitor or --qmp")
	case hmp != "":
		return host.MonitorRequest{HMP: hmp}, nil
	case !json.Valid([]byte(qmp)):
		return host.MonitorRequest{}, usagef("--qmp is not valid JSON: %s", qmp)
	}
	return host.MonitorRequest{QMP: json.RawMessage(qmp)}, nil
}

// printAnswer prints the human monitor's text as it is and QMP's JSON indented.
func printAnswer(a *app, answer json.RawMessage) error {
	var text string
	if json.Unmarshal(answer, &text) != nil {
		return a.printJSON(answer)
	}
	if text = strings.ReplaceAll(text, "\r\n", "\n"); text != "" && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	_, err := fmt.Fprint(a.stdout, text)
	return err
}
