package qemu

import (
	"fmt"
	"path/filepath"
	"strings"
)

// noGraphic is QEMU's -nographic: no display, serial port and monitor on the terminal.
func (p *parser) noGraphic(string) error {
	p.options.Console = true
	p.keep("-display", "none")
	return nil
}

// display keeps displays that need no screen. The daemon has none.
func (p *parser) display(value string) error {
	kind, _, _ := strings.Cut(value, ",")
	kind, _, _ = strings.Cut(kind, "=")
	switch kind {
	case "none", "vnc", "egl-headless", "dbus":
		p.keep("-display", value)
	default:
		p.note("-display %s is dropped: the VM runs in the background; use -vnc to see its screen", value)
	}
	return nil
}

func (p *parser) serial(value string) error {
	switch value {
	case "stdio", "mon:stdio":
		p.options.Console = true
		value = "chardev:" + consoleID
	}
	p.keep("-serial", absoluteDevice(value))
	return nil
}

// monitorHandler keeps a monitor on a socket; the terminal is not ours to give.
func monitorHandler(option string) func(*parser, string) error {
	return func(p *parser, value string) error {
		switch value {
		case "stdio", "mon:stdio":
			p.note("-%s %s is dropped: use nvh monitor", option, value)
		default:
			p.keep("-"+option, absoluteDevice(value))
		}
		return nil
	}
}

// chardev takes out a character device on the terminal: what uses it gets the
// console instead.
func (p *parser) chardev(value string) error {
	parameters := splitOptions(value)
	id, _ := lookup(parameters, "id")
	if strings.HasPrefix(id, "nvh-") {
		return fmt.Errorf("-chardev %s: ids that begin with nvh- are ours: choose another one", value)
	}
	if len(parameters) > 0 && (parameters[0].value == "stdio" && (parameters[0].key == "" || parameters[0].key == "backend")) {
		p.options.Console = true
		p.stdio[id] = true
		return nil
	}
	if path, ok := lookup(parameters, "path"); ok {
		value = joinOptions(replace(parameters, "path", absolute(path)))
	}
	p.keep("-chardev", value)
	return nil
}

// absoluteDevice resolves the path in a character device given as "file:PATH" or
// "unix:PATH,…". QEMU itself runs in another folder.
func absoluteDevice(value string) string {
	for _, kind := range []string{"file:", "pipe:", "unix:"} {
		if rest, ok := strings.CutPrefix(value, kind); ok {
			path, parameters, more := strings.Cut(rest, ",")
			value = kind + absolute(path)
			if more {
				value += "," + parameters
			}
		}
	}
	return value
}

func absolute(path string) string {
	if resolved, err := filepath.Abs(path); err == nil && path != "" {
		return resolved
	}
	return path
}

// mon is kept unless its character device turns out to be the terminal.
func (p *parser) mon(value string) error {
	p.keep("-mon", value)
	return nil
}

// redirectStdio gives the console to everything but monitors that used -chardev stdio.
func (p *parser) redirectStdio() {
	if len(p.stdio) == 0 {
		return
	}
	var raw []string
	for i := 0; i < len(p.guest.Raw); i++ {
		arg := p.guest.Raw[i]
		if arg == "-mon" && i+1 < len(p.guest.Raw) && p.stdio[monitorDevice(p.guest.Raw[i+1])] {
			p.note("-mon %s is dropped: use nvh monitor", p.guest.Raw[i+1])
			i++
			continue
		}
		raw = append(raw, p.redirect(arg))
	}
	p.guest.Raw = raw
}

func monitorDevice(value string) string {
	parameters := splitOptions(value)
	if id, ok := lookup(parameters, "chardev"); ok {
		return id
	}
	if len(parameters) > 0 && parameters[0].key == "" {
		return parameters[0].value
	}
	return ""
}

func (p *parser) redirect(arg string) string {
	if id, ok := strings.CutPrefix(arg, "chardev:"); ok && p.stdio[id] {
		return "chardev:" + consoleID
	}
	if !strings.Contains(arg, ",chardev=") {
		return arg
	}
	parameters := splitOptions(arg)
	for i, o := range parameters {
		if o.key == "chardev" && p.stdio[o.value] {
			parameters[i].value = consoleID
		}
	}
	return joinOptions(parameters)
}
