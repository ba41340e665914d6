package main

import (
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

func (a *app) genCommand() *cobra.Command {
	c := group("gen", "Generate the documentation of nvh",
		&cobra.Command{
			Use: "docs DIR", Short: "Write the command reference in Markdown", Args: cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error { return generateDocs(cmd.Root(), args[0]) },
		},
		&cobra.Command{
			Use: "man DIR", Short: "Write the man pages", Args: cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error { return generateMan(cmd.Root(), args[0]) },
		})
	c.Hidden = true
	return c
}

// generateDocs writes docs/cli; a test compares it with what is committed.
func generateDocs(root *cobra.Command, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	prepare(root)
	return doc.GenMarkdownTree(root, dir)
}

func generateMan(root *cobra.Command, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	prepare(root)
	header := &doc.GenManHeader{Section: "1", Source: "NV-Hypervisor"}
	if os.Getenv("SOURCE_DATE_EPOCH") == "" {
		// Never the date of the build: packages must be reproducible.
		header.Date = new(time.Unix(0, 0).UTC())
	}
	return doc.GenManTree(root, header, dir)
}

// prepare adds the commands that cobra itself brings, which are otherwise added
// late, and keeps dates out of the pages.
func prepare(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	withoutDate(root)
}

func withoutDate(c *cobra.Command) {
	c.DisableAutoGenTag = true
	for _, sub := range c.Commands() {
		withoutDate(sub)
	}
}
