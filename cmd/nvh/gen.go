package main

import (
	"errors"
	"os"
	"path/filepath"
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

// generateMan writes the pages of section 1 in docs/man; a test compares them with what is committed.
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
	if err := doc.GenManTree(root, header, dir); err != nil {
		return err
	}
	page, err := os.OpenFile(filepath.Join(dir, "nvh.1"), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = page.WriteString(moreOfNvh)
	return errors.Join(err, page.Close())
}

// moreOfNvh is what cobra does not know about nvh(1).
const moreOfNvh = `
\fBnvhd(8)\fP, \fBnvhd.toml(5)\fP

.SH EXIT STATUS
.TP
.B 0
Done.
.TP
.B 1
It failed, for a reason that has no code of its own; \fBdoctor\fP: a check failed.
.TP
.B 2
The command line or a definition is wrong.
.TP
.B 3
No such VM, pool, region or outage.
.TP
.B 4
The VM is in the wrong state for this verb, exists already, or is busy.
.TP
.B 5
No daemon answers on the socket.
.TP
.B 6
The image is doubtful and is not resumed.
.TP
.B 7
The pool has no room.
.TP
.B 8
This user may not use the daemon.
.TP
.B 9
Not a pool, or one that cannot be trusted; \fBnvram check\fP: an error was found.
.TP
.B 10
It took too long.
.TP
.B 130
Interrupted by SIGINT or SIGTERM.
`

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
