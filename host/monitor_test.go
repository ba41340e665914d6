package host

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/nv-hypervisor/nv-hypervisor/vm"
)

// What a hostile or careless operator may send, and what becomes of it.
func TestMonitorFilter(t *testing.T) {
	hmp := func(line string) MonitorRequest { return MonitorRequest{HMP: line} }
	qmp := func(command string) MonitorRequest { return MonitorRequest{QMP: json.RawMessage(command)} }
	allowed := []MonitorRequest{
		hmp("info status"), hmp("\t info  registers -a"), hmp("x/10i $pc"), hmp("xp /4xb 0"), hmp("p/x 1+1"), hmp("help cont"), hmp("?"),
		qmp(`{"execute":"query-status"}`), qmp(`{"execute":"x-query-ramblock"}`), qmp(`{"execute":"qom-get","arguments":{"path":"/","property":"type"}}`),
		qmp(`{"execute":"query-status","exec-oob":"cont"}`), // what is sent is made anew
	}
	for _, r := range allowed {
		if m, err := parseMonitor(r); err != nil || m.button {
			t.Errorf("%q %s: %+v, %v", r.HMP, r.QMP, m, err)
		}
	}
	for _, r := range []MonitorRequest{hmp("system_powerdown"), hmp("sendkey ctrl-alt-delete"), hmp("nmi"), qmp(`{"execute":"system_reset"}`)} {
		if m, err := parseMonitor(r); err != nil || !m.button {
			t.Errorf("%q %s: %+v, %v", r.HMP, r.QMP, m, err)
		}
	}
	refused := []MonitorRequest{
		// A guest that runs, ends, or is saved or loaded behind the daemon's back.
		hmp("cont"), hmp("c"), hmp("  cont"), hmp("\tc\t"), hmp("\v\fcont"), hmp("c/"), hmp("cont/x"), hmp("stop"), hmp("s"), hmp("quit"), hmp("q"),
		hmp("migrate -d fd:x"), hmp("migrate/tcp:evil:1"), hmp("savevm/x"), hmp("loadvm/x"), hmp("delvm x"), hmp("migrate_set_capability x-ignore-shared off"),
		hmp("gdbserver tcp::1234"), hmp("exit_preconfig"), hmp("dump-guest-memory /tmp/x"), hmp("snapshot_blkdev disk0 /tmp/x"), hmp("cont\ninfo status"),
		qmp(`{"execute":"cont"}`), qmp(`{"execute":"stop"}`), qmp(`{"execute":"quit"}`), qmp(`{"execute":"query-status","execute":"cont"}`),
		qmp(`{"execute":"query-status","EXECUTE":"cont"}`), qmp(`{"execute":"co\u006et"}`), qmp(`{"execute":"migrate","arguments":{"uri":"exec:x"}}`),
		qmp(`{"execute":"migrate-set-parameters"}`), qmp(`{"execute":"snapshot-load"}`), qmp(`{"execute":"xen-load-devices-state"}`),
		qmp(`{"execute":"human-monitor-command","arguments":{"command-line":"cont"}}`), qmp(`{"execute":"human-monitor-command","arguments":{"command-line":"info status"}}`),
		qmp(`{"execute":"dump-guest-memory"}`), qmp(`{"execute":"x-exit-preconfig"}`), qmp(`{"execute":"set-action","arguments":{"shutdown":"pause"}}`),
		qmp(`{"execute":"remove-fd","arguments":{"fdset-id":4711}}`), qmp(`{"execute":"closefd","arguments":{"fdname":"nvh-state"}}`), qmp(`{"execute":"qmp_capabilities"}`),
		// A machine that no QEMU of this definition is, or disks that are others.
		hmp("device_add usb-mouse"), hmp("device_del net0"), hmp("netdev_add user,id=x"), hmp("object_add secret,id=x"), hmp("chardev-change emergency null"),
		hmp("drive_mirror disk0 /tmp/x"), hmp("block_resize disk0 1G"), hmp("commit all"), hmp("change cd0 /etc/shadow"), hmp("eject cd0"), hmp("qemu-io disk0 \"write 0 512\""),
		hmp("o/b 0x64 0xfe"), hmp("i/b 0x60"), hmp("qom-set / x y"), hmp("balloon 1"), hmp("screendump /etc/passwd"), hmp("pmemsave 0 1 /tmp/x"), hmp("logfile /etc/passwd"),
		qmp(`{"execute":"device_add"}`), qmp(`{"execute":"object-add"}`), qmp(`{"execute":"blockdev-add"}`), qmp(`{"execute":"x-blockdev-change"}`),
		qmp(`{"execute":"blockdev-mirror"}`), qmp(`{"execute":"blockdev-snapshot"}`), qmp(`{"execute":"transaction","arguments":{"actions":[]}}`),
		qmp(`{"execute":"qom-set"}`), qmp(`{"execute":"chardev-remove","arguments":{"id":"emergency"}}`), qmp(`{"execute":"nbd-server-start"}`),
		qmp(`{"execute":"yank"}`), qmp(`{"execute":"add-fd"}`), qmp(`{"execute":"getfd"}`), qmp(`{"execute":"watchdog-set-action"}`),
		// Names that only look like queries.
		qmp(`{"execute":"requery-x"}`), qmp(`{"execute":"x-x-query-status"}`), qmp(`{"execute":" query-status"}`), qmp(`{"execute":"QUERY-STATUS"}`), hmp("query-status"),
		hmp("information"), hmp("infostatus"), hmp("INFO status"),
		// No command at all.
		hmp(" "), hmp("/"), hmp("\n"), {}, {HMP: "info", QMP: json.RawMessage(`{}`)}, qmp(`{}`), qmp(`[]`), qmp(`"cont"`), qmp(`{"execute":["cont"]}`), qmp(`{"execute"`),
	}
	for _, r := range refused {
		if m, err := parseMonitor(r); !errors.Is(err, vm.ErrInvalid) {
			t.Errorf("%q %s: %+v, %v", r.HMP, r.QMP, m, err)
		}
	}
	for line, instead := range map[string]string{"c": "nvh resume", "savevm/x": "nvh save", "device_add": "definition"} {
		if _, err := parseMonitor(hmp(line)); !strings.Contains(vm.Remedy(err), instead) {
			t.Errorf("%s: remedy %q", line, vm.Remedy(err))
		}
	}
}

// On a real QEMU: the answer is QEMU's, and the state of the VM decides what is passed.
func TestMonitor(t *testing.T) {
	s := newSite(t)
	s.boot()
	_, err := s.Create(s.ctx, definition("web"))
	must(t, err)
	status := MonitorRequest{HMP: "info status"}
	if _, err := s.Monitor(s.ctx, "web", status); !errors.Is(err, vm.ErrState) {
		t.Errorf("of a stopped VM: %v", err)
	}
	if _, err := s.Monitor(s.ctx, "none", status); !errors.Is(err, vm.ErrNotFound) {
		t.Errorf("of none: %v", err)
	}
	_, err = s.Start(s.ctx, "web", StartOptions{})
	must(t, err)
	if got, err := s.Monitor(s.ctx, "web", status); err != nil || !strings.Contains(string(got), "running") {
		t.Errorf("%s, %v", got, err)
	}
	if got, err := s.Monitor(s.ctx, "web", MonitorRequest{QMP: json.RawMessage(`{"execute":"query-status"}`)}); err != nil || !strings.Contains(string(got), `"running"`) {
		t.Errorf("%s, %v", got, err)
	}
	if _, err := s.Monitor(s.ctx, "web", MonitorRequest{QMP: json.RawMessage(`{"execute":"query-nothing"}`)}); err == nil {
		t.Error("QEMU's refusal is not told")
	}
	reset := MonitorRequest{HMP: "system_reset"}
	if _, err := s.Monitor(s.ctx, "web", reset); err != nil {
		t.Error(err)
	}
	_, err = s.Pause(s.ctx, "web")
	must(t, err)
	if _, err := s.Monitor(s.ctx, "web", reset); !errors.Is(err, vm.ErrState) {
		t.Errorf("a button of a paused VM: %v", err)
	}
	if _, err := s.Monitor(s.ctx, "web", status); err != nil {
		t.Error(err)
	}
}
