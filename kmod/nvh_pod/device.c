// SPDX-License-Identifier: GPL-2.0
/*
 * device.c - /dev/nvh_pod: read, poll and ioctl. nvh_pod.h has the contract.
 */
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "pod.h"

/* Events that one read delivers at most: what fits a small piece of stack. */
#define BATCH 8

/* Reading arms the driver, and everybody who may open the device may read it. */
static int pod_open(struct inode *inode, struct file *file)
{
	struct pod_reader *reader;

	if (!(file->f_mode & FMODE_READ))
		return -EINVAL;
	reader = kzalloc(sizeof(*reader), GFP_KERNEL);
	if (!reader)
		return -ENOMEM;
	mutex_init(&reader->reading);
	pod_ring_join(reader);
	file->private_data = reader;
	pod_nmi_arm();
	return stream_open(inode, file);
}

static int pod_release(struct inode *inode, struct file *file)
{
	struct pod_reader *reader = file->private_data;

	pod_nmi_disarm();
	kfree(reader);
	return 0;
}

/* Delivers what is there: the number of bytes, or 0 for nothing. */
static ssize_t take(struct pod_reader *reader, char __user *to, size_t events)
{
	struct nvh_pod_event batch[BATCH];
	ssize_t size = 0;
	size_t n;

	if (mutex_lock_interruptible(&reader->reading))
		return -ERESTARTSYS;
	n = pod_ring_peek(reader, batch, min_t(size_t, events, BATCH));
	if (n) {
		size = n * sizeof(batch[0]);
		if (copy_to_user(to, batch, size))
			size = -EFAULT;
		else
			pod_ring_advance(reader, batch[n - 1].sequence);
	}
	mutex_unlock(&reader->reading);
	return size;
}

static ssize_t pod_read(struct file *file, char __user *to, size_t size, loff_t *unused)
{
	struct pod_reader *reader = file->private_data;
	size_t events = size / sizeof(struct nvh_pod_event);
	ssize_t got;
	int err;

	if (!events)
		return -EINVAL;
	for (;;) {
		got = take(reader, to, events);
		if (got)
			return got;
		if (file->f_flags & O_NONBLOCK)
			return -EAGAIN;
		err = pod_ring_wait(reader);
		if (err)
			return err;
	}
}

static __poll_t pod_poll(struct file *file, poll_table *wait)
{
	struct pod_reader *reader = file->private_data;

	pod_ring_poll_wait(file, wait);
	return pod_ring_readable(reader) ? EPOLLIN | EPOLLRDNORM : 0;
}

static long give(void __user *to, const void *from, size_t size)
{
	return copy_to_user(to, from, size) ? -EFAULT : 0;
}

static long ioctl_version(void __user *arg)
{
	u32 abi = NVH_POD_ABI;

	return give(arg, &abi, sizeof(abi));
}

static long ioctl_stats(void __user *arg)
{
	struct nvh_pod_stats stats;

	pod_ring_stats(&stats);
	return give(arg, &stats, sizeof(stats));
}

static long ioctl_flush(void __user *arg)
{
	u64 took = pod_flush();

	return give(arg, &took, sizeof(took));
}

static long ioctl_park(struct pod_reader *reader, void __user *arg)
{
	struct nvh_pod_park park;
	int err;

	if (copy_from_user(&park, arg, sizeof(park)))
		return -EFAULT;
	err = pod_park(reader, &park);
	return err ? err : give(arg, &park, sizeof(park));
}

static long pod_ioctl(struct file *file, unsigned int command, unsigned long arg)
{
	struct pod_reader *reader = file->private_data;
	void __user *to = (void __user *)arg;

	switch (command) {
	case NVH_POD_IOC_VERSION:
		return ioctl_version(to);
	case NVH_POD_IOC_STATS:
		return ioctl_stats(to);
	case NVH_POD_IOC_FLUSH:
	case NVH_POD_IOC_PARK:
	case NVH_POD_IOC_SELF_TEST:
		break;
	default:
		return -ENOTTY;
	}
	if (!(file->f_mode & FMODE_WRITE))
		return -EBADF;
	switch (command) {
	case NVH_POD_IOC_FLUSH:
		return ioctl_flush(to);
	case NVH_POD_IOC_PARK:
		return ioctl_park(reader, to);
	default:
		pod_ring_self_test();
		return 0;
	}
}

static const struct file_operations pod_fops = {
	.owner = THIS_MODULE,
	.open = pod_open,
	.release = pod_release,
	.read = pod_read,
	.poll = pod_poll,
	.unlocked_ioctl = pod_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
};

static struct miscdevice pod_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "nvh_pod",
	.fops = &pod_fops,
	.mode = 0600,
};

int pod_device_register(void)
{
	return misc_register(&pod_device);
}

void pod_device_unregister(void)
{
	misc_deregister(&pod_device);
}
