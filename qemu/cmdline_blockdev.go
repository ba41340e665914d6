package qemu

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// blockNode is one -blockdev and its place in Guest.Raw.
type blockNode struct {
	index      int            // of its value in Guest.Raw
	tree       map[string]any // when it was given as JSON
	parameters []parameter    // JSON is flattened to dotted keys here
}

// blockdev remembers a node. Nodes refer to each other, so finishBlockdevs judges them.
func (p *parser) blockdev(value string) error {
	var node blockNode
	if strings.HasPrefix(value, "{") {
		decoder := json.NewDecoder(strings.NewReader(value))
		decoder.UseNumber()
		if err := decoder.Decode(&node.tree); err != nil {
			return fmt.Errorf("-blockdev %s: %w", value, err)
		}
		node.parameters = flatten("", node.tree)
	} else {
		node.parameters = splitOptions(value)
		if len(node.parameters) > 0 && node.parameters[0].key == "" {
			node.parameters[0].key = "driver"
		}
	}
	p.keep("-blockdev", value)
	node.index = len(p.guest.Raw) - 1
	p.nodes = append(p.nodes, node)
	return nil
}

func flatten(prefix string, tree map[string]any) []parameter {
	var parameters []parameter
	for key, value := range tree {
		switch v := value.(type) {
		case map[string]any:
			parameters = append(parameters, flatten(prefix+key+".", v)...)
		case bool:
			parameters = append(parameters, parameter{prefix + key, onOff(v)})
		default:
			parameters = append(parameters, parameter{prefix + key, fmt.Sprint(v)})
		}
	}
	slices.SortFunc(parameters, func(a, b parameter) int { return strings.Compare(a.key, b.key) })
	return parameters
}

// finishBlockdevs finds the images among the nodes and gives those a cache mode
// that have none.
func (p *parser) finishBlockdevs() error {
	for _, node := range p.nodes {
		for _, prefix := range []string{"", "file."} {
			path, ok := lookup(node.parameters, prefix+"filename")
			driver, _ := lookup(node.parameters, prefix+"driver")
			if !ok || (driver != "file" && driver != "host_device") {
				continue
			}
			path, err := filepath.Abs(path)
			if err != nil {
				return fmt.Errorf("-blockdev %s: %w", path, err)
			}
			node.set(prefix+"filename", path)
			if err := p.judge(&node, prefix, path); err != nil {
				return err
			}
		}
	}
	return nil
}

// judge makes a Disk of the node whose image is at path.
func (p *parser) judge(node *blockNode, prefix, path string) error {
	format, readOnly := p.use(node, prefix)
	cache := cacheOf(node.parameters, prefix+"cache.")
	if cache == "" {
		cache = cacheOf(node.parameters, "cache.") // a child inherits its parent's
	}
	if cache == "" {
		cache = "writeback"
		if !readOnly {
			cache = DefaultCache
			node.set("cache.direct", true)
			p.note("disk %s gets cache.direct=on: completed writes must survive a power cut", path)
		}
	}
	p.guest.Disks = append(p.guest.Disks, Disk{Path: path, Format: format, Cache: cache, ReadOnly: readOnly})
	text, err := node.String()
	if err != nil {
		return fmt.Errorf("-blockdev %s: %w", path, err)
	}
	p.guest.Raw[node.index] = text
	return nil
}

// use tells as what an image is used: by its own node, whose child it is, or by
// another one that refers to its node.
func (p *parser) use(node *blockNode, prefix string) (format string, readOnly bool) {
	user := node.parameters
	if prefix == "" {
		name, _ := lookup(node.parameters, "node-name")
		for _, other := range p.nodes {
			if file, ok := lookup(other.parameters, "file"); ok && file == name && name != "" {
				user = other.parameters
			}
		}
	}
	format, _ = lookup(user, "driver")
	if format == "file" || format == "host_device" {
		format = "raw"
	}
	return format, driveReadOnly(user) || driveReadOnly(node.parameters)
}

// set gives a dotted key a value, a string or a bool, in both forms of the node.
func (n *blockNode) set(key string, value any) {
	text := fmt.Sprint(value)
	if b, ok := value.(bool); ok {
		text = onOff(b)
	}
	if _, ok := lookup(n.parameters, key); ok {
		n.parameters = replace(n.parameters, key, text)
	} else {
		n.parameters = append(slices.Clone(n.parameters), parameter{key, text})
	}
	if n.tree == nil {
		return
	}
	tree := n.tree
	path := strings.Split(key, ".")
	for _, step := range path[:len(path)-1] {
		child, ok := tree[step].(map[string]any)
		if !ok {
			child = make(map[string]any)
			tree[step] = child
		}
		tree = child
	}
	tree[path[len(path)-1]] = value
}

// String is the node as a -blockdev argument, in the form in which it was given.
func (n *blockNode) String() (string, error) {
	if n.tree == nil {
		return joinOptions(n.parameters), nil
	}
	text, err := json.Marshal(n.tree)
	return string(text), err
}
