// SPDX-License-Identifier: GPL-2.0
/*
 * module.c - loading and unloading of nvh_pod, the power-outage detector driver.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/module.h>

#include "pod.h"

static char *reasons = "unknown";
module_param(reasons, charp, 0444);
MODULE_PARM_DESC(reasons, "NMIs that mean an outage: unknown, io_check, serr, separated by commas (default unknown)");

static int __init pod_init(void)
{
	int err;

	err = pod_nmi_register(reasons);
	if (err)
		return err;
	err = pod_device_register();
	if (err) {
		pod_nmi_unregister();
		pod_ring_drain();
		return err;
	}
	pr_info("waiting for NMIs of reason %s\n", reasons);
	return 0;
}

/* Runs only when no file is open: they hold a reference to the module. */
static void __exit pod_exit(void)
{
	pod_device_unregister();
	pod_nmi_unregister();
	pod_ring_drain();
	pod_park_drain();
}

module_init(pod_init);
module_exit(pod_exit);

MODULE_LICENSE("GPL");
MODULE_AUTHOR("The NV-Hypervisor authors");
MODULE_DESCRIPTION("Power-outage detector: NMI to user space, cache flush, park");
MODULE_VERSION("1.0");
