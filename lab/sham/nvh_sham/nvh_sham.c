// SPDX-License-Identifier: GPL-2.0
/*
 * nvh_sham.c - a GPIO controller, a mains adapter and a battery that do not exist, for tests of what watches them.
 *
 * Debian's kernels have neither gpio-sim nor test_power. The devices are of the kernel's own classes, so all that is above
 * the driver is the real thing: character device, edge queue, software debounce, sysfs, uevents. What a wire or a cell would
 * do is written to /sys/module/nvh_sham/parameters:
 *
 *	level		0 or 1: the electrical level of line 2, POWER_FAIL
 *	present		0 or 1: the controller is plugged in
 *	bias		read only: the last bias asked for, as enum pin_config_param; -1 for none
 *	mains		0 or 1: the adapter nvh_mains is online
 *	status		of the battery nvh_battery, as POWER_SUPPLY_STATUS_*
 *	capacity	of the battery, in percent
 *	seconds		that the battery lasts
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/gpio/driver.h>
#include <linux/interrupt.h>
#include <linux/irq_work.h>
#include <linux/irqdomain.h>
#include <linux/module.h>
#include <linux/platform_device.h>
#include <linux/power_supply.h>

#define LINES 5
#define WIRED 2

static const char *const names[LINES] = { NULL, "FREE", "POWER_FAIL", "TWICE", "TWICE" };

static struct platform_device *parent;
static struct gpio_chip chip;
static struct power_supply *mains_psy, *battery_psy;

static bool level, present, mains = true;
static int bias = -1, status = POWER_SUPPLY_STATUS_FULL, capacity = 100, seconds = 3600;

/* The GPIO controller */

static int sham_get_direction(struct gpio_chip *gc, unsigned int offset)
{
	return GPIO_LINE_DIRECTION_IN;
}

static int sham_direction_input(struct gpio_chip *gc, unsigned int offset)
{
	return 0;
}

static int sham_get(struct gpio_chip *gc, unsigned int offset)
{
	return offset == WIRED && READ_ONCE(level);
}

/* Debouncing is left to the kernel. */
static int sham_set_config(struct gpio_chip *gc, unsigned int offset, unsigned long config)
{
	enum pin_config_param param = pinconf_to_config_param(config);

	switch (param) {
	case PIN_CONFIG_BIAS_DISABLE:
	case PIN_CONFIG_BIAS_PULL_DOWN:
	case PIN_CONFIG_BIAS_PULL_UP:
		WRITE_ONCE(bias, param);
		return 0;
	default:
		return -ENOTSUPP;
	}
}

static void sham_irq_mask(struct irq_data *d)
{
	gpiochip_disable_irq(irq_data_get_irq_chip_data(d), irqd_to_hwirq(d));
}

static void sham_irq_unmask(struct irq_data *d)
{
	gpiochip_enable_irq(irq_data_get_irq_chip_data(d), irqd_to_hwirq(d));
}

static int sham_irq_set_type(struct irq_data *d, unsigned int type)
{
	return type == IRQ_TYPE_EDGE_BOTH ? 0 : -EINVAL;
}

static const struct irq_chip sham_irq_chip = {
	.name = "nvh_sham",
	.irq_mask = sham_irq_mask,
	.irq_unmask = sham_irq_unmask,
	.irq_set_type = sham_irq_set_type,
	.flags = IRQCHIP_IMMUTABLE,
	GPIOCHIP_IRQ_RESOURCE_HELPERS,
};

/* The interrupt of an edge, in the context of one. */
static void sham_edge(struct irq_work *work)
{
	generic_handle_domain_irq(chip.irq.domain, WIRED);
}

static struct irq_work edge = IRQ_WORK_INIT_HARD(sham_edge);

static int sham_plug(void)
{
	struct gpio_irq_chip *girq = &chip.irq;
	int err;

	memset(&chip, 0, sizeof(chip));
	chip.label = "nvh-sham";
	chip.parent = &parent->dev;
	chip.owner = THIS_MODULE;
	chip.base = -1;
	chip.ngpio = LINES;
	chip.names = names;
	chip.get_direction = sham_get_direction;
	chip.direction_input = sham_direction_input;
	chip.get = sham_get;
	chip.set_config = sham_set_config;
	gpio_irq_chip_set_chip(girq, &sham_irq_chip);
	girq->handler = handle_simple_irq;
	girq->default_type = IRQ_TYPE_NONE;
	err = gpiochip_add_data(&chip, NULL);
	if (!err)
		present = true;
	return err;
}

static void sham_unplug(void)
{
	if (!present)
		return;
	present = false;
	irq_work_sync(&edge);
	gpiochip_remove(&chip);
}

/* The power supplies */

static int mains_get(struct power_supply *psy, enum power_supply_property what, union power_supply_propval *val)
{
	val->intval = READ_ONCE(mains);
	return 0;
}

static int battery_get(struct power_supply *psy, enum power_supply_property what, union power_supply_propval *val)
{
	switch (what) {
	case POWER_SUPPLY_PROP_STATUS:
		val->intval = READ_ONCE(status);
		return 0;
	case POWER_SUPPLY_PROP_CAPACITY:
		val->intval = READ_ONCE(capacity);
		return 0;
	case POWER_SUPPLY_PROP_TIME_TO_EMPTY_NOW:
		val->intval = READ_ONCE(seconds);
		return 0;
	case POWER_SUPPLY_PROP_PRESENT:
		val->intval = 1;
		return 0;
	default: /* the rest it does not know at the moment */
		return -ENODATA;
	}
}

static const enum power_supply_property mains_properties[] = { POWER_SUPPLY_PROP_ONLINE };
static const enum power_supply_property battery_properties[] = {
	POWER_SUPPLY_PROP_STATUS, POWER_SUPPLY_PROP_CAPACITY, POWER_SUPPLY_PROP_TIME_TO_EMPTY_NOW,
	POWER_SUPPLY_PROP_PRESENT, POWER_SUPPLY_PROP_ENERGY_NOW,
};

static const struct power_supply_desc mains_desc = {
	.name = "nvh_mains", .type = POWER_SUPPLY_TYPE_MAINS, .get_property = mains_get,
	.properties = mains_properties, .num_properties = ARRAY_SIZE(mains_properties),
};

static const struct power_supply_desc battery_desc = {
	.name = "nvh_battery", .type = POWER_SUPPLY_TYPE_BATTERY, .get_property = battery_get,
	.properties = battery_properties, .num_properties = ARRAY_SIZE(battery_properties),
};

/* The parameters. They are set under one lock, before the module is ready as well. */

static int set_level(const char *text, const struct kernel_param *kp)
{
	bool before = level;
	int err = param_set_bool(text, kp);

	if (!err && present && before != level) {
		irq_work_queue(&edge);
		irq_work_sync(&edge);
	}
	return err;
}

static int set_present(const char *text, const struct kernel_param *kp)
{
	bool wanted;
	int err = kstrtobool(text, &wanted);

	if (err || wanted == present || !parent)
		return err;
	if (wanted)
		return sham_plug();
	sham_unplug();
	return 0;
}

static int set_mains(const char *text, const struct kernel_param *kp)
{
	int err = param_set_bool(text, kp);

	if (!err && mains_psy)
		power_supply_changed(mains_psy);
	return err;
}

static int set_battery(const char *text, const struct kernel_param *kp)
{
	int err = param_set_int(text, kp);

	if (!err && battery_psy)
		power_supply_changed(battery_psy);
	return err;
}

static const struct kernel_param_ops level_ops = { .set = set_level, .get = param_get_bool };
static const struct kernel_param_ops present_ops = { .set = set_present, .get = param_get_bool };
static const struct kernel_param_ops mains_ops = { .set = set_mains, .get = param_get_bool };
static const struct kernel_param_ops battery_ops = { .set = set_battery, .get = param_get_int };
module_param_cb(level, &level_ops, &level, 0600);
module_param_cb(present, &present_ops, &present, 0600);
module_param(bias, int, 0400);
module_param_cb(mains, &mains_ops, &mains, 0600);
module_param_cb(status, &battery_ops, &status, 0600);
module_param_cb(capacity, &battery_ops, &capacity, 0600);
module_param_cb(seconds, &battery_ops, &seconds, 0600);

static void sham_remove_all(void)
{
	if (!IS_ERR_OR_NULL(battery_psy))
		power_supply_unregister(battery_psy);
	if (!IS_ERR_OR_NULL(mains_psy))
		power_supply_unregister(mains_psy);
	sham_unplug();
	platform_device_unregister(parent);
}

static int __init sham_init(void)
{
	int err;

	parent = platform_device_register_simple("nvh_sham", PLATFORM_DEVID_NONE, NULL, 0);
	if (IS_ERR(parent))
		return PTR_ERR(parent);
	err = sham_plug();
	if (err)
		goto fail;
	mains_psy = power_supply_register(&parent->dev, &mains_desc, NULL);
	if (IS_ERR(mains_psy)) {
		err = PTR_ERR(mains_psy);
		goto fail;
	}
	battery_psy = power_supply_register(&parent->dev, &battery_desc, NULL);
	if (IS_ERR(battery_psy)) {
		err = PTR_ERR(battery_psy);
		goto fail;
	}
	return 0;
fail:
	sham_remove_all();
	return err;
}

module_init(sham_init);
module_exit(sham_remove_all);

MODULE_LICENSE("GPL");
MODULE_AUTHOR("The NV-Hypervisor authors");
MODULE_DESCRIPTION("Devices that do not exist, for tests of power-outage detectors");
