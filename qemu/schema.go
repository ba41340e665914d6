package qemu

import (
	"context"

	"github.com/nv-hypervisor/nv-hypervisor/qmp"
)

// schema is the self-description of QEMU's protocol (query-qmp-schema). Type
// names are masked in it, so types are reached from the commands that use them.
type schema map[string]schemaEntry

type schemaEntry struct {
	Name        string         `json:"name"`
	MetaType    string         `json:"meta-type"`
	ArgType     string         `json:"arg-type"`
	ElementType string         `json:"element-type"`
	Members     []schemaMember `json:"members"`
	Values      []string       `json:"values"`
}

type schemaMember struct {
	Name string `json:"name"`
	Type string `json:"type"`
}

func (s *schema) query(ctx context.Context, c *qmp.Client) error {
	var entries []schemaEntry
	if err := c.Execute(ctx, "query-qmp-schema", nil, &entries); err != nil {
		return err
	}
	*s = make(schema, len(entries))
	for _, e := range entries {
		(*s)[e.Name] = e
	}
	return nil
}

// enumOf follows a command's argument through the named members, and through the
// elements of arrays on the way, to an enumeration, and returns its values; nil
// when this QEMU has no such path.
func (s schema) enumOf(command string, members ...string) map[string]bool {
	entry := s[s[command].ArgType]
	for _, name := range members {
		next := ""
		for _, m := range entry.Members {
			if m.Name == name {
				next = m.Type
			}
		}
		entry = s[next]
		if entry.MetaType == "array" {
			entry = s[entry.ElementType]
		}
	}
	values := make(map[string]bool, len(entry.Values))
	for _, v := range entry.Values {
		values[v] = true
	}
	return values
}
