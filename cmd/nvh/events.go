package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nv-hypervisor/nv-hypervisor/api"
	"github.com/nv-hypervisor/nv-hypervisor/host"
)

func (a *app) eventsCommand() *cobra.Command {
	var asJSON bool
	var after uint64
	var count int
	c := &cobra.Command{
		Use: "events", Short: "Follow the daemon's events", Args: cobra.NoArgs,
		Long: `Events prints what happens, one line an event, until it is interrupted or the
daemon ends. With --json, or --format json, each line is a JSON object. An event
of type "gap" says that events are missing.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.connect()
			if err != nil {
				return err
			}
			var from *uint64
			if cmd.Flags().Changed("after") {
				from = &after
			}
			stream, err := client.Events(cmd.Context(), from)
			if err != nil {
				return err
			}
			defer stream.Close()
			write := a.writeEvent
			if asJSON || a.format == formatJSON {
				write = a.writeEventJSON
			}
			return copyEvents(stream, count, write)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "one JSON object a line")
	c.Flags().Uint64Var(&after, "after", 0, "begin behind the event of this sequence number; 0: the oldest known")
	c.Flags().IntVar(&count, "count", 0, "end after so many events (default never)")
	return c
}

func copyEvents(stream *api.EventStream, count int, write func(host.Event) error) error {
	for n := 0; count <= 0 || n < count; n++ {
		e, err := stream.Next()
		if errors.Is(err, io.EOF) {
			return withRemedy(fmt.Errorf("%w: it ended the event stream", api.ErrUnreachable), "Ask again when nvhd runs.")
		}
		if err != nil {
			return err
		}
		if err := write(e); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) writeEvent(e host.Event) error {
	line := []string{e.Time.Local().Format("15:04:05.000"), e.Type}
	if e.VM != "" {
		line = append(line, e.VM)
	}
	for _, key := range slices.Sorted(maps.Keys(e.Data)) {
		line = append(line, fmt.Sprintf("%s=%q", key, e.Data[key]))
	}
	_, err := fmt.Fprintln(a.stdout, oneLine(strings.Join(line, "  ")))
	return err
}
