// SPDX-License-Identifier: GPL-2.0
/*
 * park.c - write back the caches of all CPUs; stop all CPUs.
 *
 * A parked machine executes nothing but this file and NMI handlers: stop_machine
 * has brought every CPU here with interrupts off. That blocks the memory
 * operations of CPUs, not those of devices: who parks has stopped its I/O before.
 */
#include <linux/math64.h>
#include <linux/nmi.h>
#include <linux/rcupdate.h>
#include <linux/stop_machine.h>
#include <linux/version.h>
#include <linux/workqueue.h>
#include <asm/smp.h>
#include <asm/special_insns.h>
#include <asm/tsc.h>

#include "pod.h"

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 12, 0)
#define rcu_momentary_eqs rcu_momentary_dyntick_idle
#endif

/*
 * struct parking - one park, on the stack of who asked for it
 * @timeout: in cycles of the TSC
 * @arrived: CPUs that are here; the first of them keeps the time
 * @flushed: CPUs whose caches are written back
 * @over: ends the park on all CPUs
 * @parked: in cycles
 * @outcome: NVH_POD_PARK_…
 */
struct parking {
	u64 timeout;
	atomic_t arrived;
	atomic_t flushed;
	bool over;
	u64 parked;
	u32 outcome;
};

/* Held during a park. Nothing else may hold it: it would be taken for a park. */
static DEFINE_MUTEX(one_park);

/*
 * A park can outlast the patience of RCU's stall detector, which judges the grace
 * period under way at the first tick after it. There is a switch for those who
 * know better, without a public declaration (kernel/rcu/rcu.h).
 */
extern int rcu_cpu_stall_suppress;

static DEFINE_MUTEX(stalls);
/* Guarded by stalls. */
static int stall_suppress_before;
static bool stall_suppressed;
static u64 parks;

/* From before the CPUs stop until after they run again: an NMI means power is back. */
static bool parked;
static bool power_back;

/* Safe in an NMI. False if the machine is not parked. */
bool pod_unpark(void)
{
	if (!READ_ONCE(parked))
		return false;
	WRITE_ONCE(power_back, true);
	return true;
}

/* Returns the nanoseconds it took. */
u64 pod_flush(void)
{
	u64 begin = ktime_get_ns();

	wbinvd_on_all_cpus();
	return ktime_get_ns() - begin;
}

/* As multi_cpu_stop does it: nobody shall take the standstill for a lockup. */
static void idle(void)
{
	cpu_relax();
	touch_nmi_watchdog();
	rcu_momentary_eqs();
}

/*
 * Time is counted in TSC cycles: nobody updates the kernel's clock meanwhile, and
 * clock sources other than the TSC can wrap within a minute.
 */
static void keep_time(struct parking *p)
{
	u64 begin;

	while (atomic_read(&p->flushed) < num_online_cpus())
		idle();
	begin = rdtsc_ordered();
	for (;;) {
		p->parked = rdtsc_ordered() - begin;
		if (READ_ONCE(power_back)) {
			p->outcome = NVH_POD_PARK_POWER_BACK;
			break;
		}
		if (p->parked >= p->timeout) {
			p->outcome = NVH_POD_PARK_TIMEOUT;
			break;
		}
		idle();
	}
	WRITE_ONCE(p->over, true);
}

/* Runs on every CPU. Interrupts are off on all of them before it runs on any. */
static int park_cpu(void *data)
{
	struct parking *p = data;
	bool keeps_time = atomic_inc_return(&p->arrived) == 1;

	wbinvd();
	atomic_inc(&p->flushed);
	if (keeps_time)
		keep_time(p);
	while (!READ_ONCE(p->over))
		idle();
	return 0;
}

static void suppress_stalls(void)
{
	mutex_lock(&stalls);
	parks++;
	if (!stall_suppressed) {
		stall_suppressed = true;
		stall_suppress_before = READ_ONCE(rcu_cpu_stall_suppress);
		WRITE_ONCE(rcu_cpu_stall_suppress, 1);
	}
	mutex_unlock(&stalls);
}

/*
 * Waits for the end of the grace period that a park met, then lets the detector
 * judge again, unless there was another park meanwhile: it has queued this again.
 */
static void unsuppress_stalls(struct work_struct *unused)
{
	u64 last;

	mutex_lock(&stalls);
	last = parks;
	mutex_unlock(&stalls);
	synchronize_rcu();
	mutex_lock(&stalls);
	if (stall_suppressed && parks == last) {
		WRITE_ONCE(rcu_cpu_stall_suppress, stall_suppress_before);
		stall_suppressed = false;
	}
	mutex_unlock(&stalls);
}

static DECLARE_WORK(unsuppress, unsuppress_stalls);

/*
 * Refuses with -EAGAIN while the caller has unread events: it might park over the
 * news that power is back. An NMI from the check on ends the park at once.
 */
static int park(struct pod_reader *reader, struct parking *p)
{
	int err;

	WRITE_ONCE(power_back, false);
	WRITE_ONCE(parked, true);
	smp_mb(); /* pairs with the cmpxchg of pod_ring_report_nmi */
	if (pod_ring_unread(reader)) {
		err = -EAGAIN;
	} else {
		suppress_stalls();
		err = stop_machine(park_cpu, p, cpu_online_mask);
		schedule_work(&unsuppress);
	}
	WRITE_ONCE(parked, false);
	return err;
}

int pod_park(struct pod_reader *reader, struct nvh_pod_park *request)
{
	struct parking p = { .arrived = ATOMIC_INIT(0), .flushed = ATOMIC_INIT(0) };
	int err;

	if (request->reserved || !request->timeout_ns || request->timeout_ns > NVH_POD_PARK_MAX_NS)
		return -EINVAL;
	if (!tsc_khz)
		return -EOPNOTSUPP;
	p.timeout = mul_u64_u32_div(request->timeout_ns, tsc_khz, USEC_PER_SEC);
	if (!mutex_trylock(&one_park))
		return -EBUSY;
	err = park(reader, &p);
	mutex_unlock(&one_park);
	if (err)
		return err;
	request->parked_ns = mul_u64_u32_div(p.parked, USEC_PER_SEC, tsc_khz);
	request->outcome = p.outcome;
	return 0;
}

/* After the last file was closed: nothing of this file runs any more on return. */
void pod_park_drain(void)
{
	flush_work(&unsuppress);
}
