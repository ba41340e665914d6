/*
 * Keeps the process as the program made it. A shared library written in Go starts the Go runtime when it is loaded, and
 * that changes three things which a C program did not ask for:
 *
 *   - It installs handlers for SIGBUS, SIGFPE, SIGSEGV, SIGPIPE and SIGURG (package os/signal, "Go programs that use cgo or SWIG"). They
 *     pass signals on, but a program that asks sigaction(2) sees them, and a signal that was ignored is no longer ignored behind an execve.
 *     The runtime needs them for panics that this library does not recover from and for preemption, which
 *     it is told to do without (asyncpreemptoff in the Makefile). So they are replaced by what was there before.
 *   - It starts threads, which take signals meant for the process: away from sigwait(3), or onto a goroutine's stack of
 *     a few KiB. The threads inherit their mask from the one that loads the library, so that one blocks everything meanwhile. The runtime
 *     itself unblocks faults, SIGCHLD, SIGPROF and signal 34.
 *   - It raises the soft limit of open files, which select(2) cannot bear.
 *
 * A thread of the program that is in a call of ours runs on a goroutine's stack as well, so signals wait until it is back.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <sys/resource.h>

#include "_cgo_export.h"
#include "abi.h"

static struct sigaction actions[NSIG];
static bool known[NSIG];
static struct rlimit file_limit;
static bool file_limit_known;
static sigset_t load_mask;
static atomic_bool forked;

static void forget_go(void)
{
	forked = true;
}

/* Runs before the constructor of the Go runtime, which has no priority. */
__attribute__((constructor(101))) static void before_go(void)
{
	sigset_t all;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &load_mask);
	for (int number = 1; number < NSIG; number++)
		known[number] = sigaction(number, NULL, &actions[number]) == 0;
	file_limit_known = getrlimit(RLIMIT_NOFILE, &file_limit) == 0;
	pthread_atfork(NULL, NULL, forget_go);
}

/* Runs after it: constructors without priority run in the order of linking, and the Go part is linked first. */
__attribute__((constructor)) static void after_go(void)
{
	for (int number = 1; number < NSIG; number++) {
		struct sigaction now;

		if (known[number] && sigaction(number, NULL, &now) == 0 && now.sa_handler != actions[number].sa_handler)
			sigaction(number, &actions[number], NULL);
	}
	pthread_sigmask(SIG_SETMASK, &load_mask, NULL);
}

void restore_file_limit(void)
{
	struct rlimit now;

	/* One below the hard limit is what the runtime leaves (syscall/rlimit.go); anything else is the program's own doing. */
	if (file_limit_known && getrlimit(RLIMIT_NOFILE, &now) == 0 && now.rlim_cur == now.rlim_max - 1)
		setrlimit(RLIMIT_NOFILE, &file_limit);
}

bool enter_go(struct visit *visit)
{
	static _Thread_local bool attached;
	sigset_t all;

	if (forked)
		return false;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &visit->mask);
	if (!attached) {
		/* A thread's first call makes it known to the runtime, which unblocks some signals. */
		nvgo_attach();
		attached = true;
		pthread_sigmask(SIG_SETMASK, &all, NULL);
	}
	return true;
}

void leave_go(const struct visit *visit)
{
	pthread_sigmask(SIG_SETMASK, &visit->mask, NULL);
}
