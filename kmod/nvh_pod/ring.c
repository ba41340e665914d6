// SPDX-License-Identifier: GPL-2.0
/*
 * ring.c - events on their way from the NMI to any number of readers.
 *
 * An NMI cannot take the lock of the ring, for it may have interrupted its
 * holder. It fills one slot, which belongs to whom its state says:
 *
 *	EMPTY --NMI--> FILLING --NMI--> READY --irq_work--> EMPTY
 *
 * and queues the irq_work, an interrupt that follows as soon as interrupts are
 * on. That moves the event to the ring and wakes the readers. An NMI that finds
 * the slot taken comes before anybody knows of the last one: it is the same outage.
 */
#include <linux/irq_work.h>
#include <linux/mutex.h>
#include <linux/sched.h>
#include <linux/spinlock.h>
#include <linux/timekeeping.h>
#include <linux/wait.h>

#include "pod.h"

enum { EMPTY, FILLING, READY };

static struct {
	atomic_t state;
	u64 time_ns;
	u32 kind;
	u32 reason;
} from_nmi;

/* When a self-test was asked for that is not in the ring yet, else 0. */
static atomic64_t self_test_time;
static DEFINE_MUTEX(self_testing);

static DEFINE_SPINLOCK(lock);
static DECLARE_WAIT_QUEUE_HEAD(readers);

/* Guarded by lock. */
static u64 newest;	/* sequence of the newest event, 0 before the first */
static u64 first_read;	/* sequence of the newest event that anybody has read */
static struct nvh_pod_event ring[NVH_POD_RING];
static struct nvh_pod_stats counts;

static void append(u64 time_ns, u32 kind, u32 reason)
{
	newest++;
	ring[newest % NVH_POD_RING] = (struct nvh_pod_event){
		.sequence = newest, .time_ns = time_ns, .kind = kind, .reason = reason,
	};
}

static u64 since(u64 time_ns)
{
	return max_t(s64, 0, (s64)(ktime_get_mono_fast_ns() - time_ns));
}

static void take_from_nmi(void)
{
	if (atomic_read_acquire(&from_nmi.state) != READY)
		return;
	append(from_nmi.time_ns, from_nmi.kind, from_nmi.reason);
	counts.events++;
	if (from_nmi.kind == NVH_POD_OUTAGE) {
		counts.wakeup_last_ns = since(from_nmi.time_ns);
		counts.wakeup_max_ns = max(counts.wakeup_max_ns, counts.wakeup_last_ns);
	}
	atomic_set_release(&from_nmi.state, EMPTY);
}

static void deliver(struct irq_work *unused)
{
	unsigned long flags;
	u64 self_test;

	spin_lock_irqsave(&lock, flags);
	take_from_nmi();
	self_test = atomic64_xchg(&self_test_time, 0);
	if (self_test) {
		append(self_test, NVH_POD_SELF_TEST, NVH_POD_REASON_NONE);
		counts.self_tests++;
	}
	spin_unlock_irqrestore(&lock, flags);
	wake_up_interruptible_poll(&readers, EPOLLIN | EPOLLRDNORM);
}

static struct irq_work delivery = IRQ_WORK_INIT(deliver);

/*
 * Safe in an NMI. False if the previous event is still on its way. The slot is
 * taken before parked is looked at: a park that begins meanwhile either makes this
 * a return of power or sees the event (the barrier in pod_park pairs with cmpxchg).
 */
bool pod_ring_report_nmi(u64 time_ns, u32 reason)
{
	if (atomic_cmpxchg(&from_nmi.state, EMPTY, FILLING) != EMPTY)
		return false;
	from_nmi.time_ns = time_ns;
	from_nmi.kind = pod_unpark() ? NVH_POD_POWER_BACK : NVH_POD_OUTAGE;
	from_nmi.reason = reason;
	atomic_set_release(&from_nmi.state, READY);
	irq_work_queue(&delivery);
	return true;
}

/* The event is in the ring on return. Takes the way of an NMI, but for the NMI. */
void pod_ring_self_test(void)
{
	mutex_lock(&self_testing);
	atomic64_set(&self_test_time, ktime_get_mono_fast_ns());
	irq_work_queue(&delivery);
	irq_work_sync(&delivery);
	mutex_unlock(&self_testing);
}

/* A new reader sees what happens from now on. */
void pod_ring_join(struct pod_reader *reader)
{
	unsigned long flags;

	spin_lock_irqsave(&lock, flags);
	reader->cursor = newest;
	spin_unlock_irqrestore(&lock, flags);
}

/* True also for an event that is on its way. */
bool pod_ring_unread(struct pod_reader *reader)
{
	unsigned long flags;
	bool unread;

	spin_lock_irqsave(&lock, flags);
	unread = reader->cursor != newest || atomic_read(&from_nmi.state) != EMPTY;
	spin_unlock_irqrestore(&lock, flags);
	return unread;
}

/* True for what read would deliver. */
bool pod_ring_readable(struct pod_reader *reader)
{
	unsigned long flags;
	bool unread;

	spin_lock_irqsave(&lock, flags);
	unread = reader->cursor != newest;
	spin_unlock_irqrestore(&lock, flags);
	return unread;
}

/* Copies the next events, at most max, without consuming them. */
size_t pod_ring_peek(struct pod_reader *reader, struct nvh_pod_event *to, size_t max)
{
	unsigned long flags;
	u64 at, lost = 0;
	size_t n = 0;

	spin_lock_irqsave(&lock, flags);
	at = reader->cursor;
	if (newest - at > NVH_POD_RING) {
		lost = newest - NVH_POD_RING - at;
		at += lost;
	}
	while (n < max && at < newest) {
		to[n] = ring[++at % NVH_POD_RING];
		to[n].lost = lost;
		lost = 0;
		n++;
	}
	spin_unlock_irqrestore(&lock, flags);
	return n;
}

static void count_first_reads(u64 upto)
{
	u64 oldest = newest > NVH_POD_RING ? newest - NVH_POD_RING : 0;
	u64 at;

	for (at = max(first_read, oldest) + 1; at <= upto; at++) {
		const struct nvh_pod_event *e = &ring[at % NVH_POD_RING];

		if (e->kind == NVH_POD_OUTAGE) {
			counts.read_last_ns = since(e->time_ns);
			counts.read_max_ns = max(counts.read_max_ns, counts.read_last_ns);
		}
	}
	first_read = max(first_read, upto);
}

/* Consumes all up to an event that peek returned. */
void pod_ring_advance(struct pod_reader *reader, u64 sequence)
{
	unsigned long flags;

	spin_lock_irqsave(&lock, flags);
	reader->cursor = sequence;
	count_first_reads(sequence);
	spin_unlock_irqrestore(&lock, flags);
}

/* Sleeps until there is something to read, or a signal: -ERESTARTSYS. */
int pod_ring_wait(struct pod_reader *reader)
{
	return wait_event_interruptible(readers, pod_ring_readable(reader));
}

void pod_ring_poll_wait(struct file *file, poll_table *wait)
{
	poll_wait(file, &readers, wait);
}

void pod_ring_stats(struct nvh_pod_stats *stats)
{
	unsigned long flags;

	spin_lock_irqsave(&lock, flags);
	*stats = counts;
	spin_unlock_irqrestore(&lock, flags);
	stats->spurious = atomic64_read(&pod_spurious);
	stats->passed_on = atomic64_read(&pod_passed_on);
}

/* After the last NMI handler: nothing of this file runs any more on return. */
void pod_ring_drain(void)
{
	irq_work_sync(&delivery);
}
