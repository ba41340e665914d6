/* SPDX-License-Identifier: GPL-2.0 */
/*
 * pod.h - what the parts of nvh_pod know of each other.
 *
 * Data flows nmi.c -> ring.c -> device.c; park.c stands beside them.
 */
#ifndef NVH_POD_INTERNAL_H
#define NVH_POD_INTERNAL_H

#include <linux/atomic.h>
#include <linux/mutex.h>
#include <linux/poll.h>
#include <linux/types.h>

#include "nvh_pod.h"

/*
 * struct pod_reader - one open file
 * @reading: held from looking at events to having delivered them, so that two
 *	threads that share the file get each event once
 * @cursor: sequence of the last event delivered or skipped; guarded by the ring
 */
struct pod_reader {
	struct mutex reading;
	u64 cursor;
};

/* nmi.c */
int pod_nmi_register(const char *reasons);
void pod_nmi_unregister(void);
void pod_nmi_arm(void);
void pod_nmi_disarm(void);

/* ring.c */
bool pod_ring_report_nmi(u64 time_ns, u32 reason);
void pod_ring_self_test(void);
void pod_ring_join(struct pod_reader *reader);
bool pod_ring_readable(struct pod_reader *reader);
bool pod_ring_unread(struct pod_reader *reader);
size_t pod_ring_peek(struct pod_reader *reader, struct nvh_pod_event *to, size_t max);
void pod_ring_advance(struct pod_reader *reader, u64 sequence);
int pod_ring_wait(struct pod_reader *reader);
void pod_ring_poll_wait(struct file *file, poll_table *wait);
void pod_ring_stats(struct nvh_pod_stats *stats);
void pod_ring_drain(void);

/* What the NMI handler counts; everything else is counted under the ring's lock. */
extern atomic64_t pod_spurious;
extern atomic64_t pod_passed_on;

/* park.c */
u64 pod_flush(void);
int pod_park(struct pod_reader *reader, struct nvh_pod_park *park);
bool pod_unpark(void);
void pod_park_drain(void);

/* device.c */
int pod_device_register(void);
void pod_device_unregister(void);

#endif
