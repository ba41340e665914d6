#!/bin/sh
# Installs what is missing to build, test and demonstrate on Debian 12 with Go, as root or with sudo, and fetches
# the guest and the second QEMU into the cache. With everything there it asks dpkg once and touches no network.
set -eu

# make, gcc-12, libelf1, libssl3: the kernel module is built with the compiler of Debian's kernels.
# qemu-system-x86: the hypervisor. gcc, libc6-dev, pkg-config: the C interface of libnvram and the race detector.
# nut-server, nut-client: upsd, its dummy driver and upsmon, which tests of pod/nut run in folders of their own. libnss3-tools: a certificate for upsd.
# dbus, python3-dbusmock: a bus and a logind of their own for the tests of pod/logind.
# xz-utils: unpack kernel modules. e2fsprogs: the disks of emulated hosts. iproute2: network namespaces of tests. strace: the order of durable writes in tests. cpio, man-db: read back the initramfs and the man pages in tests.
packages="qemu-system-x86 make gcc gcc-12 libelf1 libssl3 libc6-dev pkg-config cpio man-db iproute2 strace nut-client nut-server libnss3-tools dbus python3-dbusmock xz-utils e2fsprogs ca-certificates"

missing() {
	for package in $packages; do
		case $(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null) in
		installed) ;;
		*) echo "$package" ;;
		esac
	done
}

as_root() {
	if [ "$(id -u)" = 0 ]; then
		"$@"
	elif command -v sudo >/dev/null; then
		sudo -- "$@"
	else
		echo "deps: cannot install: run as root or install sudo: $*" >&2
		return 1
	fi
}

# Another apt may be at work, as after a boot; it gets two minutes.
apt() {
	as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=120 -q "$@"
}

# The lock on the package lists has no such option: apt-get fails at once when another apt-get updates.
update() {
	for attempt in 1 2 3 4 5 6 7 8 9 10 11 12; do
		if apt update; then
			return 0
		fi
		if [ "$attempt" -lt 12 ]; then
			echo "deps: apt-get update failed, trying again in 10 s" >&2
			sleep 10
		fi
	done
	echo "deps: the package lists cannot be updated: check the network and /etc/apt" >&2
	return 1
}

# Debian enables what it installs. The tests run NUT themselves, so the services of what was installed just now go; those of
# a UPS that this machine had before stay.
leave_disabled() {
	case $1 in
	nut-client) units="nut-monitor.service nut.target" ;;
	nut-server) units="nut-server.service nut-driver.target nut-driver-enumerator.path nut-driver-enumerator.service" ;;
	*) return 0 ;;
	esac
	if command -v systemctl >/dev/null; then
		# shellcheck disable=SC2086 # one word a unit
		as_root systemctl --quiet --no-reload disable $units
	fi
	if [ -d /run/systemd/system ]; then
		# shellcheck disable=SC2086 # one word a unit
		as_root systemctl stop $units
	fi
	as_root update-rc.d "$1" disable
}

if ! command -v go >/dev/null; then
	echo "deps: Go is not on PATH: install Go 1.26 or newer, then run make again" >&2
	exit 1
fi
cd "$(dirname "$0")/.."
wanted=$(missing)
if [ -n "$wanted" ]; then
	echo "deps: installing $(echo $wanted)"
	update
	# nut-server would replace apcupsd, which may watch over this very machine: then apt fails and says so.
	# shellcheck disable=SC2086 # one word a package
	apt install --yes --no-install-recommends --no-remove $wanted
	for package in $wanted; do
		leave_disabled "$package"
	done
fi
go run ./lab/cmd/lab-fetch qemu guest
