// SPDX-License-Identifier: GPL-2.0
/*
 * nmi.c - from the non-maskable interrupt to an event.
 *
 * The handler can interrupt anything, itself on another CPU included. It takes
 * no lock, touches only atomics, its own port and the one slot that ring.c
 * prepared for it, and never waits.
 *
 * Which NMIs are ours? The kernel first asks the handlers of NMI_LOCAL (perf,
 * backtraces, kgdb, crash), where nvh_pod is not, then reads port 0x61 and calls
 * those of NMI_SERR or NMI_IO_CHECK, and only for what then remains those of
 * NMI_UNKNOWN (default_do_nmi in arch/x86/kernel/nmi.c). An unknown NMI carries
 * no sign of who sent it: with the reason "unknown" any NMI that nobody else can
 * explain is an outage. That errs on the harmless side, for an outage that turns
 * out to be none costs a pause, but it also hides broken hardware, so nothing is
 * claimed unless somebody reads the device. What the kernel swallows as the echo
 * of two local NMIs that came back to back never gets here either.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/bits.h>
#include <linux/i8253.h>
#include <linux/io.h>
#include <linux/module.h>
#include <linux/string.h>
#include <linux/timekeeping.h>
#include <asm/mach_traps.h>
#include <asm/nmi.h>

#include "pod.h"

static uint debounce_us = 1000;
module_param(debounce_us, uint, 0444);
MODULE_PARM_DESC(debounce_us, "NMIs this soon after an event belong to it; 1 to 1000000 (default 1000)");

atomic64_t pod_spurious = ATOMIC64_INIT(0);
atomic64_t pod_passed_on = ATOMIC64_INIT(0);

/* Open files. Without any, NMIs are not ours. */
static atomic_t armed = ATOMIC_INIT(0);
/* The time of the last event, 0 before the first. */
static atomic64_t last_event = ATOMIC64_INIT(0);

/* One bit for every type of NMI that we handle. */
static unsigned int handled;

static const struct reason {
	const char *name;
	unsigned int type;
	u32 reason;
	u8 disable;	/* bit of port 0x61 that disables and resets the source */
	u8 status;	/* bit of port 0x61 that shows it */
} known[] = {
	{ "unknown", NMI_UNKNOWN, NVH_POD_REASON_UNKNOWN, 0, 0 },
	{ "io_check", NMI_IO_CHECK, NVH_POD_REASON_IO_CHECK, NMI_REASON_CLEAR_IOCHK, NMI_REASON_IOCHK },
	{ "serr", NMI_SERR, NVH_POD_REASON_SERR, NMI_REASON_CLEAR_SERR, NMI_REASON_SERR },
};

static const struct reason *reason_of(unsigned int type)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(known); i++)
		if (known[i].type == type)
			return &known[i];
	return NULL;
}

/*
 * Resets a latched source, which otherwise stays asserted and silent: disable it,
 * then enable it (NMI Status and Control register, Intel ICH/PCH datasheets). The
 * default handlers of the kernel, which do not run for an NMI that is claimed,
 * leave SERR# disabled for good and IOCHK# for two seconds. One that a detector
 * still holds would at once interrupt again, without end: it stays disabled until
 * the device is next opened with no other reader.
 */
static void reset_source(const struct reason *r)
{
	u8 enabled;

	if (!r->disable)
		return;
	enabled = inb(NMI_REASON_PORT) & NMI_REASON_CLEAR_MASK & ~r->disable;
	outb(enabled | r->disable, NMI_REASON_PORT);
	outb(enabled, NMI_REASON_PORT);
	if (inb(NMI_REASON_PORT) & r->status)
		outb(enabled | r->disable, NMI_REASON_PORT);
}

/*
 * Several CPUs may see one pulse, and the line may bounce. True for the first, on
 * whichever CPU, since debounce_us. Clocks of CPUs may differ a little: a time
 * before the last event is near it, too.
 */
static bool first_of_event(u64 now)
{
	s64 last = atomic64_read(&last_event);

	if (last && (s64)now - last < (s64)debounce_us * NSEC_PER_USEC)
		return false;
	return atomic64_cmpxchg(&last_event, last, now) == last;
}

static int pod_nmi(unsigned int type, struct pt_regs *regs)
{
	u64 now = ktime_get_mono_fast_ns();
	const struct reason *r = reason_of(type);

	if (!r || !atomic_read(&armed)) {
		atomic64_inc(&pod_passed_on);
		return NMI_DONE;
	}
	reset_source(r);
	if (!first_of_event(now) || !pod_ring_report_nmi(now, r->reason))
		atomic64_inc(&pod_spurious);
	return NMI_HANDLED;
}

/* Enables what reset_source or the kernel left disabled. */
void pod_nmi_arm(void)
{
	unsigned long flags;
	size_t i;
	u8 disabled = 0;

	if (atomic_inc_return(&armed) != 1)
		return;
	for (i = 0; i < ARRAY_SIZE(known); i++)
		if (handled & BIT(known[i].type))
			disabled |= known[i].disable;
	if (!disabled)
		return;
	raw_spin_lock_irqsave(&i8253_lock, flags); /* shares the port */
	outb(inb(NMI_REASON_PORT) & NMI_REASON_CLEAR_MASK & ~disabled, NMI_REASON_PORT);
	raw_spin_unlock_irqrestore(&i8253_lock, flags);
}

void pod_nmi_disarm(void)
{
	atomic_dec(&armed);
}

static int parse(const char *reasons, unsigned int *types)
{
	*types = 0;
	for (;;) {
		size_t length = strcspn(reasons, ",\n");
		size_t i;

		for (i = 0; i < ARRAY_SIZE(known); i++)
			if (strlen(known[i].name) == length && !strncmp(reasons, known[i].name, length))
				break;
		if (i == ARRAY_SIZE(known)) {
			pr_err("reasons: \"%.*s\" is not one of unknown, io_check, serr\n", (int)length, reasons);
			return -EINVAL;
		}
		*types |= BIT(known[i].type);
		if (reasons[length] != ',')
			return 0;
		reasons += length + 1;
	}
}

/* register_nmi_handler is a macro with a static variable: it needs one place a type. */
static int register_type(unsigned int type)
{
	switch (type) {
	case NMI_UNKNOWN:
		return register_nmi_handler(NMI_UNKNOWN, pod_nmi, 0, KBUILD_MODNAME);
	case NMI_IO_CHECK:
		return register_nmi_handler(NMI_IO_CHECK, pod_nmi, 0, KBUILD_MODNAME);
	case NMI_SERR:
		return register_nmi_handler(NMI_SERR, pod_nmi, 0, KBUILD_MODNAME);
	}
	return -EINVAL;
}

int pod_nmi_register(const char *reasons)
{
	unsigned int types;
	size_t i;
	int err;

	if (!debounce_us || debounce_us > USEC_PER_SEC) {
		pr_err("debounce_us: %u is not in 1 to 1000000\n", debounce_us);
		return -EINVAL;
	}
	err = parse(reasons, &types);
	if (err)
		return err;
	for (i = 0; i < ARRAY_SIZE(known); i++) {
		if (!(types & BIT(known[i].type)))
			continue;
		err = register_type(known[i].type);
		if (err) {
			pr_err("NMI handler for %s: error %d\n", known[i].name, err);
			pod_nmi_unregister();
			return err;
		}
		handled |= BIT(known[i].type);
	}
	return 0;
}

/* No handler runs on any CPU any more when this returns. */
void pod_nmi_unregister(void)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(known); i++)
		if (handled & BIT(known[i].type))
			unregister_nmi_handler(known[i].type, KBUILD_MODNAME);
	handled = 0;
}
