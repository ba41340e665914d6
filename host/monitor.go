package host

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/nv-hypervisor/nv-hypervisor/vm"
)

// Monitor passes one command to a VM's QEMU. Only commands that are known to leave
// persistence alone are passed, because there is no end of others: one that lets a
// guest run after its save was committed makes its image one of a past it has left;
// one that adds a device makes an image that no QEMU of this definition loads; one
// that moves a disk makes the guest continue on an old copy of it.
func (h *Host) Monitor(ctx context.Context, name string, req MonitorRequest) (json.RawMessage, error) {
	v, err := h.find(name)
	if err != nil {
		return nil, err
	}
	m, err := parseMonitor(req)
	if err != nil {
		return nil, err
	}
	p, s := v.Process(), v.State()
	switch {
	case p == nil || s != vm.Running && s != vm.Paused:
		return nil, fmt.Errorf("%s: monitor: the VM is %s: %w", name, s, vm.ErrState)
	case m.button && s != vm.Running: // its image may be what the next outage needs
		return nil, vm.WithRemedy(fmt.Errorf("%s: monitor: %s while the VM is %s: %w", name, m.name, s, vm.ErrState), "Resume it first: nvh resume "+name+".")
	}
	var reply json.RawMessage
	if err := p.QMP().Execute(ctx, m.command, m.args, &reply); err != nil {
		return nil, fmt.Errorf("%s: monitor: %w", name, err)
	}
	return reply, nil
}

// monitorCommand is a MonitorRequest, understood and allowed.
type monitorCommand struct {
	name    string // what the operator calls it
	button  bool   // it does something to the guest
	command string // what QEMU is sent
	args    any
}

func parseMonitor(r MonitorRequest) (monitorCommand, error) {
	if (r.HMP == "") == (len(r.QMP) == 0) {
		return monitorCommand{}, fmt.Errorf("monitor: give either an HMP line or a QMP command: %w", vm.ErrInvalid)
	}
	if r.HMP != "" {
		m := monitorCommand{name: hmpName(r.HMP), command: "human-monitor-command", args: map[string]string{"command-line": r.HMP}}
		return m.allow(hmpLooks, hmpButtons)
	}
	var q struct {
		Execute   string          `json:"execute"`
		Arguments json.RawMessage `json:"arguments"`
	}
	if err := json.Unmarshal(r.QMP, &q); err != nil || q.Execute == "" {
		return monitorCommand{}, fmt.Errorf("monitor: not a QMP command like {\"execute\":\"query-status\"}: %w", vm.ErrInvalid)
	}
	m := monitorCommand{name: q.Execute, command: q.Execute}
	if len(q.Arguments) > 0 {
		m.args = q.Arguments
	}
	return m.allow(qmpLooks, qmpButtons)
}

// hmpName is the command's name as QEMU finds it in the line (get_command_name in
// its monitor/hmp.c): behind white space, up to white space or a slash.
func hmpName(line string) string {
	const space = " \t\n\v\f\r"
	line = strings.TrimLeft(line, space)
	if end := strings.IndexAny(line, space+"/"); end >= 0 {
		return line[:end]
	}
	return line
}

// queries is how the names of QMP commands begin that only look, and, behind x-, of
// those that QEMU may change some day (docs/devel/writing-monitor-commands.rst).
const queries = "query-"

// Commands that look.
var (
	qmpLooks = words(queries + " qom-get qom-list qom-list-types qom-list-properties device-list-properties trace-event-get-state")
	hmpLooks = words("info help ? print p x xp qom-get qom-list sum gpa2hva gpa2hpa gva2gpa")
)

// Commands that do to the guest what its own buttons, keys and lines would.
var (
	qmpButtons = words("system_reset system_powerdown system_wakeup inject-nmi send-key input-send-event trace-event-set-state")
	hmpButtons = words("system_reset system_powerdown system_wakeup nmi sendkey mouse_move mouse_button mouse_set trace-event")
)

func words(list string) map[string]bool {
	set := map[string]bool{}
	for _, w := range strings.Fields(list) {
		set[w] = true
	}
	return set
}

func (m monitorCommand) allow(looks, buttons map[string]bool) (monitorCommand, error) {
	switch {
	case looks[m.name] || looks[queries] && (strings.HasPrefix(m.name, queries) || strings.HasPrefix(m.name, "x-"+queries)):
		return m, nil
	case buttons[m.name]:
		m.button = true
		return m, nil
	}
	remedy := "Commands that look are passed (info, query-…), and the guest's buttons (system_powerdown, sendkey, nmi …). " +
		"Change devices in the definition; it takes effect at the next cold boot."
	if instead := ours[m.name]; instead != "" {
		remedy = "Use " + instead + "."
	}
	return monitorCommand{}, vm.WithRemedy(fmt.Errorf("monitor: %q could make the VM's image worthless: %w", m.name, vm.ErrInvalid), remedy)
}

// ours are commands of which the daemon has a form of its own.
var ours = map[string]string{
	"cont": "nvh resume", "c": "nvh resume", "stop": "nvh pause", "s": "nvh pause",
	"quit": "nvh stop --force", "q": "nvh stop --force",
	"migrate": "nvh save", "savevm": "nvh save", "snapshot-save": "nvh save", "xen-save-devices-state": "nvh save",
	"loadvm": "nvh restore", "snapshot-load": "nvh restore", "migrate-incoming": "nvh restore", "migrate_incoming": "nvh restore",
	"human-monitor-command": "nvh monitor NAME with the HMP line itself",
}
