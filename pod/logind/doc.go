// Package logind is the detector of planned shutdowns: systemd-logind announces every reboot, power-off, halt and kexec
// that goes through systemd, and waits for those that hold a delay inhibitor.
//
// The watcher holds one: what=shutdown, who=nvhd, mode=delay; `systemd-inhibit --list` shows it. It lives as long as its
// file descriptor, so a daemon that dies delays nothing. See the Inhibitor Locks page of systemd and
// org.freedesktop.login1(5). The tier is Planned: logind waits, but not for ever. Tested with the logind of python3-dbusmock.
//
// # Keys
//
//	min_delay  How long logind should wait at the least, such as "30s", the default. If it would wait shorter (5 s as
//	           systemd comes), the health warns, with the drop-in for logind.conf that corrects it: InhibitDelayMaxSec.
//	           Nothing else depends on it: a save that lasts longer than logind waits is cut off.
//
// # What is reported
//
//	Mains    The inhibitor is held and no shutdown is under way, or one was cancelled. Detail tells how long logind will wait.
//	Going    PrepareForShutdown(true). Done releases the inhibitor, and the host goes down at once if no other is held.
//	         Without a call of Done logind goes on when its time is over.
//	Unknown  logind or the bus is lost.
//
// Runtime and Charge are always negative: no battery is involved. After a cancelled shutdown an inhibitor that was released is
// taken anew, before Mains is reported; a Done from before then does nothing. Announcements count only if they come from whoever
// owns the name org.freedesktop.login1: anybody may send signals to anybody on the system bus.
//
// # What goes wrong
//
// The bus or logind may end and return, together or by themselves. Each loss is reported as Unknown; the watcher connects anew
// after 250 ms, then after twice as long, up to 5 s. An inhibitor that it holds is kept meanwhile, as a restarted logind still
// honours it, and given up when the next one is held. If a shutdown has begun meanwhile, that is reported as soon as the
// connection is there, though logind may refuse the new inhibitor and then does not wait: Done is nil unless the former one
// is still held. Every error is in the health with its remedy.
//
// The bus is that of DBUS_SYSTEM_BUS_ADDRESS, or the system's. An answer is waited for 5 s. When Run ends the inhibitor is released.
package logind
