package qemu

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/nv-hypervisor/nv-hypervisor/nvram"
)

// Options is what a foreign QEMU command line says about how it is run, as
// opposed to the machine that it describes.
type Options struct {
	Name      string   // of -name
	UUID      string   // of -uuid
	Console   bool     // the caller's terminal was to be the guest's console
	Daemonize bool     // -daemonize was there
	Notes     []string // what was changed or dropped, and why; for the user
}

// ParseCommandLine reads the arguments of a qemu-system-x86_64 command line,
// without the program's name, and makes a Guest of them. Memory, CPUs, machine,
// CPU model and accelerator become fields; disks are found, so that they can be
// checked, and get a cache mode that survives a power cut where none was given;
// the options that are ours to decide are dropped with a note or refused with a
// reason; all others are kept verbatim in Guest.Raw. Relative paths are resolved
// against the working folder.
func ParseCommandLine(args []string) (Guest, Options, error) {
	p := parser{guest: Guest{Memory: defaultMemory, Raw: []string{}}}
	if err := p.parse(args); err != nil {
		return Guest{}, Options{}, fmt.Errorf("%w: QEMU arguments: %w", ErrInvalid, err)
	}
	return p.guest, p.options, nil
}

// defaultMemory is what QEMU gives a PC that does not say.
const defaultMemory = 128 * nvram.MiB

// parser collects what one command line says.
type parser struct {
	guest   Guest
	options Options

	accels     []string        // in the user's order of preference
	properties []string        // of the machine
	stdio      map[string]bool // ids of -chardev stdio, which become the console
	nodes      []blockNode     // of -blockdev
	seen       map[string]bool // options by name
}

// flags are QEMU's options without an argument.
var flags = makeSet("h help version enable-kvm snapshot nographic full-screen win2k-hack no-fd-bootchk no-acpi no-hpet " +
	"nodefaults no-user-config S daemonize no-reboot no-shutdown preconfig singlestep only-migratable semihosting mem-prealloc usb " +
	"alt-grab ctrl-grab no-quit portrait curses sdl gtk s audio-help xen-attach xen-domid-restrict enable-fips " +
	"enable-sync-profile perfmap jitdump nodefconfig")

// optionHandlers act on an option and its argument.
var optionHandlers map[string]func(p *parser, value string) error

func init() {
	optionHandlers = map[string]func(p *parser, value string) error{
		"m":          (*parser).memory,
		"smp":        (*parser).cpus,
		"machine":    (*parser).machine,
		"M":          (*parser).machine,
		"accel":      (*parser).accel,
		"enable-kvm": func(p *parser, _ string) error { return p.accel("kvm") },
		"cpu":        func(p *parser, v string) error { p.guest.CPU = v; return nil },
		"name":       (*parser).name,
		"uuid":       func(p *parser, v string) error { p.options.UUID = strings.ToLower(v); return nil },

		"daemonize":       func(p *parser, _ string) error { p.options.Daemonize = true; return nil },
		"mem-prealloc":    dropHandler("-mem-prealloc", "RAM in a pool is preallocated"),
		"no-shutdown":     dropHandler("-no-shutdown", "a guest that powers off ends its QEMU"),
		"only-migratable": func(*parser, string) error { return nil }, // always set
		"no-user-config":  func(*parser, string) error { return nil }, // always set
		"nodefconfig":     func(*parser, string) error { return nil }, // always set
		"msg":             func(*parser, string) error { return nil }, // we set it

		"nographic":  (*parser).noGraphic,
		"display":    (*parser).display,
		"curses":     func(p *parser, _ string) error { return p.display("curses") },
		"sdl":        func(p *parser, _ string) error { return p.display("sdl") },
		"gtk":        func(p *parser, _ string) error { return p.display("gtk") },
		"serial":     (*parser).serial,
		"monitor":    monitorHandler("monitor"),
		"qmp":        monitorHandler("qmp"),
		"qmp-pretty": monitorHandler("qmp-pretty"),
		"chardev":    (*parser).chardev,
		"mon":        (*parser).mon,
		"object":     (*parser).object,
		"numa":       (*parser).numa,
		"device":     (*parser).device,

		"drive":    func(p *parser, v string) error { return p.drive(v) },
		"hda":      shortDriveHandler("index=0,media=disk"),
		"hdb":      shortDriveHandler("index=1,media=disk"),
		"hdc":      shortDriveHandler("index=2,media=disk"),
		"hdd":      shortDriveHandler("index=3,media=disk"),
		"cdrom":    shortDriveHandler("index=2,media=cdrom"),
		"fda":      shortDriveHandler("if=floppy,index=0"),
		"fdb":      shortDriveHandler("if=floppy,index=1"),
		"pflash":   shortDriveHandler("if=pflash"),
		"sd":       shortDriveHandler("if=sd"),
		"mtdblock": shortDriveHandler("if=mtd"),
		"blockdev": (*parser).blockdev,
		"kernel":   fileHandler("kernel"),
		"initrd":   fileHandler("initrd"),
		"dtb":      fileHandler("dtb"),
		"pidfile":  fileHandler("pidfile"),
		"L":        fileHandler("L"),
	}
}

func makeSet(words string) map[string]bool {
	set := make(map[string]bool)
	for _, w := range strings.Fields(words) {
		set[w] = true
	}
	return set
}

func (p *parser) parse(args []string) error {
	p.stdio, p.seen = make(map[string]bool), make(map[string]bool)
	for i := 0; i < len(args); i++ {
		if strings.ContainsRune(args[i], 0) {
			return errors.New("an argument contains a NUL byte")
		}
		name, isOption := optionName(args[i])
		if args[i] == "" || (isOption && (name == "" || name[0] == '-')) {
			return fmt.Errorf("argument %q has no meaning", args[i])
		}
		if !isOption {
			if err := shortDriveHandler("index=0,media=disk")(p, args[i]); err != nil {
				return err
			}
			continue
		}
		value := ""
		if !flags[name] {
			if i+1 >= len(args) {
				return fmt.Errorf("-%s lacks its argument", name)
			}
			i++
			value = args[i]
		}
		if err := p.option(name, value); err != nil {
			return err
		}
	}
	return p.finish()
}

func (p *parser) option(name, value string) error {
	if strings.ContainsRune(value, 0) {
		return fmt.Errorf("-%s: the argument contains a NUL byte", name)
	}
	if value == "help" || value == "?" {
		return fmt.Errorf("-%s %s: ask QEMU itself", name, value)
	}
	p.seen[name] = true
	if handle, ok := optionHandlers[name]; ok {
		return handle(p, value)
	}
	if why, ok := owned[name]; ok {
		return fmt.Errorf("-%s is not possible: %s", name, why)
	}
	if flags[name] {
		p.keep("-" + name)
	} else {
		p.keep("-"+name, value)
	}
	return nil
}

// finish completes what depends on several options.
func (p *parser) finish() error {
	p.guest.Accel = p.chooseAccel()
	if len(p.properties) > 0 {
		p.guest.Machine += "," + strings.Join(p.properties, ",")
	}
	p.redirectStdio()
	if !p.seen["serial"] && (!p.seen["nodefaults"] || p.seen["nographic"]) {
		// QEMU gives such a machine a serial port.
		p.keep("-serial", "chardev:"+consoleID)
	}
	if !p.kept("-display") && !p.kept("-vnc") && !p.kept("-spice") {
		p.keep("-display", "none")
	}
	if !p.kept("-monitor") {
		p.keep("-monitor", "none")
	}
	return p.finishBlockdevs()
}

func (p *parser) keep(args ...string) { p.guest.Raw = append(p.guest.Raw, args...) }

func (p *parser) kept(option string) bool {
	for _, arg := range p.guest.Raw {
		if arg == option {
			return true
		}
	}
	return false
}

func (p *parser) note(format string, args ...any) {
	p.options.Notes = append(p.options.Notes, fmt.Sprintf(format, args...))
}

// dropHandler is a handler that leaves an option out.
func dropHandler(option, why string) func(*parser, string) error {
	return func(p *parser, _ string) error {
		p.note("%s is dropped: %s", option, why)
		return nil
	}
}

// fileHandler is a handler of an option whose argument is a path.
func fileHandler(name string) func(*parser, string) error {
	return func(p *parser, value string) error {
		path, err := filepath.Abs(value)
		if err != nil {
			return fmt.Errorf("-%s %s: %w", name, value, err)
		}
		p.keep("-"+name, path)
		return nil
	}
}

func (p *parser) name(value string) error {
	for _, o := range splitOptions(value) {
		if o.key == "guest" || (o.key == "" && p.options.Name == "") {
			p.options.Name = o.value
		}
	}
	return nil
}

// parameter is one part of an option's argument: key=value, or a lone value.
type parameter struct{ key, value string }

// splitOptions splits at single commas; two commas are one in a value.
func splitOptions(s string) []parameter {
	var parameters []parameter
	for len(s) > 0 {
		var part strings.Builder
		i := 0
		for i < len(s) {
			if s[i] == ',' {
				if i+1 >= len(s) || s[i+1] != ',' {
					break
				}
				i++
			}
			part.WriteByte(s[i])
			i++
		}
		s = s[min(i+1, len(s)):]
		key, value, ok := strings.Cut(part.String(), "=")
		if !ok || key == "" {
			key, value = "", part.String()
		}
		parameters = append(parameters, parameter{key, value})
	}
	return parameters
}

// lookup returns the last value of a key, as QEMU takes it.
func lookup(parameters []parameter, key string) (value string, ok bool) {
	for _, o := range parameters {
		if o.key == key {
			value, ok = o.value, true
		}
	}
	return value, ok
}

// joinOptions is the reverse of splitOptions.
func joinOptions(parameters []parameter) string {
	parts := make([]string, len(parameters))
	for i, o := range parameters {
		parts[i] = escape(o.value)
		if o.key != "" {
			parts[i] = o.key + "=" + parts[i]
		}
	}
	return strings.Join(parts, ",")
}
