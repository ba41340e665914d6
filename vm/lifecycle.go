package vm

// The life cycle. Every arrow into running passes the saver, which lets no guest
// run during an outage and none whose record does not say "running" durably.
//
//	           create                start, or recovery with on_lost = boot
//	             │                ┌──────────────────────────────────────────┐
//	             ▼                │                                          │
//	  ┌────▶ stopped ──start──▶ starting ──marked, cont──▶ running ◀─resume─ paused
//	  │          ▲                │ QEMU fails             │  │  │───pause────▶ │
//	  │          │                ▼                        │  │                 │
//	  │        start           failed ◀──── QEMU dies ─────┘  │ stop, guest     │
//	  │          │                                            │ powers off      │
//	  │          └────────────────────────────────────────────┘                 │
//	  │                                                                         │
//	  │   running, paused ──save, suspend, outage──▶ saving ──committed──▶ saved│
//	  │                                                 │ not committed: failed │
//	  │                                                 │ (or running again)    │
//	  │   saved ──start, restore, recovery──▶ restoring ──loaded, marked, cont──┴▶ running
//	  │     │ power is back while QEMU still lives: marked void, cont ───────────▶ running
//	  │     │                                 │ QEMU cannot load it: saved, with the reason
//	  │     │ the image is doubtful           ▼
//	  └─────┴───── discard ◀──────────────  held ──on_lost = boot: image kept aside──▶ starting
//
// A paused VM that an outage saved is paused again when power is back, and keeps its
// image, which the next outage needs as well, until it is resumed.
//
// A volatile VM knows stopped, starting, running, paused and failed only; an outage
// pauses it, and if its QEMU dies in it, it boots cold at recovery.

// running states have a live QEMU whose guest may execute or is only paused.
func (s State) alive() bool { return s == Running || s == Paused }

// restartable states have no QEMU and no image that may be resumed.
func (s State) restartable() bool { return s == Stopped || s == Held || s == Failed }
