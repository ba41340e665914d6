/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * nvh_pod.h - what /dev/nvh_pod says to user space. See nvh_pod(4).
 *
 * The device delivers power outages that a detector signals by a non-maskable
 * interrupt, and does the two things an outage needs that only a kernel can do
 * in time: write back the caches of all CPUs, and stop them all.
 *
 * Structures have the same layout for 32-bit and 64-bit programs. All times are
 * nanoseconds; points in time are of CLOCK_MONOTONIC.
 */
#ifndef NVH_POD_H
#define NVH_POD_H

#include <linux/ioctl.h>
#include <linux/types.h>

/*
 * Version of this interface. It grows when something is added; what is here
 * keeps its number, layout and meaning.
 */
#define NVH_POD_ABI 1

/* Events kept. A reader that falls further behind loses the oldest. */
#define NVH_POD_RING 64

/* What an event announces. */
#define NVH_POD_OUTAGE		1	/* an NMI: the power is failing */
#define NVH_POD_POWER_BACK	2	/* an NMI while the machine was parked */
#define NVH_POD_SELF_TEST	3	/* NVH_POD_IOC_SELF_TEST, nothing happened */

/* Which kind of NMI it was, as the hardware tells them apart. */
#define NVH_POD_REASON_NONE	0	/* none: a self-test */
#define NVH_POD_REASON_UNKNOWN	1	/* no source that the machine knows */
#define NVH_POD_REASON_IO_CHECK	2	/* IOCHK#, bit 6 of port 0x61 */
#define NVH_POD_REASON_SERR	3	/* SERR#, bit 7 of port 0x61 */

/*
 * struct nvh_pod_event - one event, as read(2) returns them
 * @sequence: 1 for the first event after the module was loaded, then counting
 * @time_ns: when the NMI handler began, or when the self-test was asked for
 * @kind: NVH_POD_OUTAGE, NVH_POD_POWER_BACK or NVH_POD_SELF_TEST
 * @reason: NVH_POD_REASON_…
 * @lost: events that this reader missed immediately before this one
 */
struct nvh_pod_event {
	__u64 sequence;
	__u64 time_ns;
	__u32 kind;
	__u32 reason;
	__u64 lost;
};

/* How a park ended. */
#define NVH_POD_PARK_TIMEOUT	1
#define NVH_POD_PARK_POWER_BACK	2

/* The longest park. */
#define NVH_POD_PARK_MAX_NS	60000000000ULL

/*
 * struct nvh_pod_park - argument of NVH_POD_IOC_PARK
 * @timeout_ns: in: end after this time; 1 to NVH_POD_PARK_MAX_NS
 * @parked_ns: out: how long all CPUs stood still
 * @outcome: out: NVH_POD_PARK_TIMEOUT or NVH_POD_PARK_POWER_BACK
 * @reserved: in: 0
 */
struct nvh_pod_park {
	__u64 timeout_ns;
	__u64 parked_ns;
	__u32 outcome;
	__u32 reserved;
};

/*
 * struct nvh_pod_stats - counts since the module was loaded
 * @events: outages and returns of power that became an event
 * @self_tests: self-tests that became an event
 * @spurious: NMIs that were claimed but belonged to an event already known: the
 *	same pulse seen by a further CPU, or the line bounced
 * @passed_on: NMIs left to the rest of the kernel because no reader was there
 * @wakeup_last_ns: from the NMI of the last outage until its event was readable
 * @wakeup_max_ns: the longest of these
 * @read_last_ns: from the NMI of the last outage until the first reader read it
 * @read_max_ns: the longest of these
 */
struct nvh_pod_stats {
	__u64 events;
	__u64 self_tests;
	__u64 spurious;
	__u64 passed_on;
	__u64 wakeup_last_ns;
	__u64 wakeup_max_ns;
	__u64 read_last_ns;
	__u64 read_max_ns;
};

#define NVH_POD_IOC_MAGIC 0xF7

/* The NVH_POD_ABI that the module was built with. */
#define NVH_POD_IOC_VERSION	_IOR(NVH_POD_IOC_MAGIC, 0, __u32)
#define NVH_POD_IOC_STATS	_IOR(NVH_POD_IOC_MAGIC, 1, struct nvh_pod_stats)

/* The following three want a descriptor opened for reading and writing. */

/*
 * Writes back and empties the caches of all CPUs; returns how long that took.
 * What any CPU had stored before the call is then in memory.
 */
#define NVH_POD_IOC_FLUSH	_IOR(NVH_POD_IOC_MAGIC, 2, __u64)

/*
 * Stops all CPUs, writes back their caches once more, and lets none execute
 * anything until the time is over or an NMI says that power is back.
 */
#define NVH_POD_IOC_PARK	_IOWR(NVH_POD_IOC_MAGIC, 3, struct nvh_pod_park)

/* Makes an event of the kind NVH_POD_SELF_TEST; it is readable on return. */
#define NVH_POD_IOC_SELF_TEST	_IO(NVH_POD_IOC_MAGIC, 4)

#endif
