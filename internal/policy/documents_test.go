package policy

import (
	"fmt"
	"go/ast"
	"path"
	"regexp"
	"slices"
	"strings"
)

var documentRules = []rule{
	{
		name:  "every link in a document leads somewhere",
		check: links,
		broken: []example{
			{files{"README.md": "See [the map](MAP.md)."}, "README.md: link MAP.md leads nowhere"},
			{files{"docs/a.md": "See [b](../b.md#the-end).", "b.md": "# The start\n"}, "docs/a.md: link ../b.md#the-end: b.md has no heading of that name"},
			{files{"a.md": "See [below](#what)."}, "a.md: link #what: a.md has no heading"},
		},
	},
	{
		name:  "every page can be found",
		check: orphans,
		broken: []example{
			{files{"README.md": "", "docs/secret.md": ""}, "docs/secret.md is linked from nowhere"},
		},
	},
	{
		name:  "documents name commands that exist",
		check: commands,
		broken: []example{
			{files{"README.md": "Try `nvh fly`.", "docs/cli/nvh_ls.md": ""}, "README.md: nvh fly"},
			{files{"README.md": "    sudo nvh --format json outage undo\n", "docs/cli/nvh_outage.md": "", "docs/cli/nvh_outage_ls.md": ""}, "README.md: nvh outage undo"},
		},
	},
	{
		name:  "docs/formats.md draws what the code draws",
		check: drawings,
		broken: []example{
			{
				files{"nvram/layout.go": "package nvram\n\n// Bytes.\n//\n//\t0 magic\n//\t8 size\nconst a = 1\n", "docs/formats.md": "0 magic\n9 size\n"},
				"docs/formats.md does not show the drawing of nvram/layout.go:3",
			},
			{files{"nvram/layout.go": "package nvram\n"}, "nvram/layout.go has no drawing"},
		},
	},
}

var (
	fence     = regexp.MustCompile("(?ms)^ *```.*?^ *```")
	indented  = regexp.MustCompile(`(?m)^(\t| {4}).*$`)
	span      = regexp.MustCompile("`[^`\n]+`")
	link      = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading   = regexp.MustCompile(`(?m)^#+ +(.+?) *$`)
	inHeading = regexp.MustCompile("[^a-z0-9 _-]")
	anywhere  = regexp.MustCompile(`^[a-z]+:`)
)

// prose is a document without its code.
func prose(text string) string {
	for _, code := range []*regexp.Regexp{fence, indented, span} {
		text = code.ReplaceAllString(text, "")
	}
	return text
}

// code is the code in a document: its blocks and spans.
func code(text string) string {
	blocks := append(fence.FindAllString(text, -1), indented.FindAllString(text, -1)...)
	return strings.Join(append(blocks, span.FindAllString(text, -1)...), "\n")
}

// links finds relative links that lead nowhere.
func links(t *tree) []string {
	var found []string
	for _, name := range t.paths(".md") {
		for _, m := range link.FindAllStringSubmatch(prose(t.text[name]), -1) {
			if anywhere.MatchString(m[1]) {
				continue
			}
			to, anchor, _ := strings.Cut(m[1], "#")
			target := name
			if to != "" {
				target = path.Join(path.Dir(name), to)
			}
			switch {
			case !t.has(target):
				found = append(found, fmt.Sprintf("%s: link %s leads nowhere", name, m[1]))
			case anchor != "" && !slices.Contains(anchors(t.text[target]), anchor):
				found = append(found, fmt.Sprintf("%s: link %s: %s has no heading of that name", name, m[1], target))
			}
		}
	}
	return found
}

// has tells whether there is such a file or folder.
func (t *tree) has(name string) bool {
	if _, ok := t.text[name]; ok {
		return true
	}
	for file := range t.text {
		if strings.HasPrefix(file, strings.TrimSuffix(name, "/")+"/") {
			return true
		}
	}
	return false
}

// anchors are the names that the headings of a document can be linked by, as code forges make them.
func anchors(text string) []string {
	var list []string
	for _, m := range heading.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
		list = append(list, strings.ReplaceAll(inHeading.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-"))
	}
	return list
}

// orphans finds pages that no other page links to.
func orphans(t *tree) []string {
	linked := map[string]bool{"README.md": true}
	for _, name := range t.paths(".md") {
		for _, m := range link.FindAllStringSubmatch(prose(t.text[name]), -1) {
			to, _, _ := strings.Cut(m[1], "#")
			linked[path.Join(path.Dir(name), to)] = true
		}
	}
	var found []string
	for _, name := range t.paths(".md") {
		if !linked[name] && !linked[path.Dir(name)] {
			found = append(found, name+" is linked from nowhere: link it from README.md, or from the page a reader comes from")
		}
	}
	return found
}

var nvhCommand = regexp.MustCompile(`(?:^|[^/\w.-])nvh((?: --(?:format|socket)[ =]\S+)*) ([a-z][a-z-]*)(?: ([a-z][a-z-]*))?`)

// aliases are commands without a page of their own: the paper's names.
var aliases = []string{"dump-devices", "nv-restore"}

// commands finds nvh commands in the code of documents that nvh does not have.
func commands(t *tree) []string {
	var found []string
	for _, name := range t.paths(".md") {
		for _, line := range strings.Split(code(t.text[name]), "\n") {
			for _, m := range nvhCommand.FindAllStringSubmatch(line, -1) {
				verb, sub := m[2], m[3]
				switch {
				case slices.Contains(aliases, verb):
				case !t.has("docs/cli/nvh_" + verb + ".md"):
					found = append(found, fmt.Sprintf("%s: nvh %s: there is no such command", name, verb))
				case sub != "" && t.isGroup(verb) && !t.has("docs/cli/nvh_"+verb+"_"+sub+".md"):
					found = append(found, fmt.Sprintf("%s: nvh %s %s: there is no such command", name, verb, sub))
				}
			}
		}
	}
	return found
}

func (t *tree) isGroup(verb string) bool {
	return slices.ContainsFunc(t.paths(".md"), func(name string) bool { return strings.HasPrefix(name, "docs/cli/nvh_"+verb+"_") })
}

// drawn are the files that define formats on media.
var drawn = []string{"nvram/layout.go", "vm/record/layout.go"}

// drawings compares the page on formats with the comments of the code that implements them.
func drawings(t *tree) []string {
	var found []string
	for _, name := range drawn {
		blocks := 0
		if f := t.goes[name]; f != nil {
			for _, comment := range f.Comments {
				for _, block := range preformatted(comment) {
					blocks++
					if !strings.Contains(t.text["docs/formats.md"], block) {
						found = append(found, fmt.Sprintf("docs/formats.md does not show the drawing of %s: copy this there:\n%s", t.at(comment), block))
					}
				}
			}
		}
		if blocks == 0 {
			found = append(found, name+" has no drawing of its bytes")
		}
	}
	return found
}

// preformatted are the indented blocks of a comment, as go doc sees them.
func preformatted(comment *ast.CommentGroup) []string {
	var blocks []string
	current := ""
	for _, line := range append(strings.Split(comment.Text(), "\n"), "end") {
		switch text, drawn := strings.CutPrefix(line, "\t"); {
		case drawn:
			current += text + "\n"
		case line == "" && current != "": // a blank line may be inside
			current += "\n"
		case current != "":
			blocks = append(blocks, strings.TrimRight(current, "\n")+"\n")
			current = ""
		}
	}
	return blocks
}
