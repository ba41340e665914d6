/*
 * Proves that the process stays the program's own although the library brings a runtime with handlers, threads and limits.
 *
 *     process POOL CASE     0: as it should be; other cases end by the signal that they are about
 *
 * Built twice: linked with the library, and (LOAD) loading it with dlopen(3) once the program is set up.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <nvram.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#ifdef LOAD
#include <dlfcn.h>

static __typeof__(nv_open) *open_pool;
static __typeof__(nv_alloc) *alloc_region;
static __typeof__(nv_free) *free_region;
static __typeof__(nv_persist) *persist;
static __typeof__(nv_last_error) *last_error;

static void *look_up(void *library, const char *name)
{
	void *symbol = dlsym(library, name);

	if (symbol == NULL) {
		fprintf(stderr, "process: %s\n", dlerror());
		exit(1);
	}
	return symbol;
}

static void load(void)
{
	void *library = dlopen("libnvram.so.0", RTLD_NOW);

	if (library == NULL) {
		fprintf(stderr, "process: %s\n", dlerror());
		exit(1);
	}
	*(void **)&open_pool = look_up(library, "nv_open");
	*(void **)&alloc_region = look_up(library, "nv_alloc");
	*(void **)&free_region = look_up(library, "nv_free");
	*(void **)&persist = look_up(library, "nv_persist");
	*(void **)&last_error = look_up(library, "nv_last_error");
}
#else
#define open_pool nv_open
#define alloc_region nv_alloc
#define free_region nv_free
#define persist nv_persist
#define last_error nv_last_error

static void load(void) {}
#endif

static const char *path;

#define CHECK(condition) check(condition, #condition, __LINE__)

static void check(int holds, const char *condition, int line)
{
	if (holds)
		return;
	fprintf(stderr, "process.c:%d: %s does not hold (errno %d, library: %s)\n", line, condition, errno, last_error());
	exit(1);
}

/* Uses the library, so that this thread has been in Go. */
static nv_pool *use(void)
{
	static nv_pool *pool;

	if (pool == NULL)
		CHECK((pool = open_pool(path, 0)) != NULL);
	char *memory = alloc_region(pool, "process", 1);
	CHECK(memory != NULL);
	memory[0] = 1;
	CHECK(persist(memory, 1) == 0);
	CHECK(free_region(pool, "process") == 0);
	return pool;
}

static void ignore(int number) { (void)number; }

/* Dispositions, mask and limits are what they were, before the first call and after it. */
static void unchanged(void)
{
	sigset_t mask;
	struct rlimit limit;

	signal(SIGHUP, ignore);
	for (int round = 0; round < 2; round++) {
		for (int number = 1; number < NSIG; number++) {
			struct sigaction now;
			if (sigaction(number, NULL, &now) < 0)
				continue;
			if (now.sa_handler != (number == SIGHUP ? ignore : SIG_DFL)) {
				fprintf(stderr, "process: signal %d has another disposition in round %d\n", number, round);
				exit(1);
			}
		}
		CHECK(pthread_sigmask(SIG_SETMASK, NULL, &mask) == 0);
		for (int number = 1; number < NSIG; number++)
			CHECK(sigismember(&mask, number) <= 0);
		use();
	}
	CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
	CHECK(limit.rlim_cur == 200); /* set by who started us */
}

/* A thread's mask survives a call, whatever it is. */
static void mask(void)
{
	sigset_t wanted, now;

	sigfillset(&wanted);
	sigdelset(&wanted, SIGUSR1);
	CHECK(pthread_sigmask(SIG_SETMASK, &wanted, NULL) == 0);
	CHECK(pthread_sigmask(SIG_SETMASK, NULL, &wanted) == 0); /* what can be had of it */
	use();
	CHECK(pthread_sigmask(SIG_SETMASK, NULL, &now) == 0);
	for (int number = 1; number < NSIG; number++)
		CHECK(sigismember(&wanted, number) == sigismember(&now, number));
}

static void write_to_broken_pipe(void)
{
	int end[2];

	CHECK(pipe(end) == 0);
	close(end[0]);
	CHECK(write(end[1], "x", 1) < 0 && errno == EPIPE);
}

static void pipe_default(void)
{
	use();
	write_to_broken_pipe();
	CHECK(!"alive after SIGPIPE");
}

/* Started with SIGPIPE ignored: so it is here, and behind an execve. */
static void pipe_inherited(void)
{
	struct sigaction now;

	use();
	CHECK(sigaction(SIGPIPE, NULL, &now) == 0 && now.sa_handler == SIG_IGN);
	write_to_broken_pipe();
	execlp("sh", "sh", "-c", "kill -PIPE $$", (char *)NULL);
}

static volatile sig_atomic_t caught;

static void catch(int number) { caught = number; }

static void pipe_handler(void)
{
	signal(SIGPIPE, catch);
	use();
	write_to_broken_pipe();
	CHECK(caught == SIGPIPE);
}

static int *volatile nowhere;

static void segv_default(void)
{
	use();
	*nowhere = 1;
}

static sigjmp_buf out;

static void jump(int number)
{
	(void)number;
	siglongjmp(out, 1);
}

static void segv_handler(void)
{
	for (int i = 0; i < 3; i++) {
		use();
		signal(SIGSEGV, jump);
		if (sigsetjmp(out, 1) == 0) {
			*nowhere = 1;
			CHECK(!"alive after SIGSEGV");
		}
	}
}

/* A bad pointer given to the library faults in C, where the program's handler gets it. */
static void segv_argument(void)
{
	nv_pool *pool = use();

	signal(SIGSEGV, jump);
	if (sigsetjmp(out, 1) == 0) {
		alloc_region(pool, (const char *)16, 1);
		CHECK(!"alive after SIGSEGV");
	}
	use();
}

/* The threads of the runtime leave the process's signals to who waits for them. */
static void waited_for(void)
{
	sigset_t set;
	struct timespec limit = {5, 0};

	use();
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGUSR1);
	CHECK(pthread_sigmask(SIG_BLOCK, &set, NULL) == 0);
	for (int i = 0; i < 200; i++) {
		int number = i % 2 == 0 ? SIGTERM : SIGUSR1;
		CHECK(kill(getpid(), number) == 0);
		CHECK(sigtimedwait(&set, NULL, &limit) == number);
	}
}

static pthread_t main_thread;
static volatile sig_atomic_t alarms, elsewhere;

/* Needs more stack than a goroutine has, and is not installed with SA_ONSTACK. */
static void large_handler(int number)
{
	volatile char large[256 * 1024];

	(void)number;
	for (size_t i = 0; i < sizeof large; i += 512)
		large[i] = 1;
	alarms++;
	if (!pthread_equal(pthread_self(), main_thread))
		elsewhere = 1;
}

static void alarms_during_calls(void)
{
	const struct itimerval often = {{0, 200}, {0, 200}}, never = {{0, 0}, {0, 0}};

	main_thread = pthread_self();
	signal(SIGALRM, large_handler);
	CHECK(setitimer(ITIMER_REAL, &often, NULL) == 0);
	while (alarms < 1000)
		use();
	CHECK(setitimer(ITIMER_REAL, &never, NULL) == 0);
	CHECK(!elsewhere);
}

/* The runtime does not survive fork(2): the child gets an error, and can still start another program; the parent notices nothing. */
static void forks(void)
{
	int status;

	use();
	pid_t child = fork();
	CHECK(child >= 0);
	if (child == 0) {
		CHECK(open_pool("/nowhere", 0) == NULL && errno == ENOTSUP);
		CHECK(strstr(last_error(), "; ") != NULL);
		execlp("true", "true", (char *)NULL);
		_exit(1);
	}
	CHECK(waitpid(child, &status, 0) == child && status == 0);
	use();
}

static nv_pool *shared;

static void *work(void *argument)
{
	char name[16];

	snprintf(name, sizeof name, "thread%d", *(int *)argument);
	CHECK(open_pool("/nowhere", 0) == NULL && errno == ENOENT);
	const char *mine = last_error();
	for (int i = 1; i <= 15; i++) {
		char *memory = alloc_region(shared, name, 2 << 20);
		CHECK(memory != NULL && memory[4096] == 0);
		memset(memory, i, 2 << 20);
		CHECK(persist(memory, 2 << 20) == 0);
		CHECK(memory[0] == (char)i);
		CHECK(free_region(shared, name) == 0);
	}
	CHECK(strstr(mine, "/nowhere") != NULL && strstr(last_error(), "/nowhere") != NULL);
	return NULL;
}

static void threads(void)
{
	pthread_t thread[6];
	int number[6];

	shared = use();
	CHECK(alloc_region(shared, "a name", 1) == NULL && errno == EINVAL);
	for (int i = 0; i < 6; i++) {
		number[i] = i;
		CHECK(pthread_create(&thread[i], NULL, work, &number[i]) == 0);
	}
	for (int i = 0; i < 6; i++)
		CHECK(pthread_join(thread[i], NULL) == 0);
	CHECK(strstr(last_error(), "a name") != NULL);
}

static const struct {
	const char *name;
	void (*run)(void);
} cases[] = {
	{"unchanged", unchanged}, {"mask", mask}, {"pipe-default", pipe_default}, {"pipe-inherited", pipe_inherited},
	{"pipe-handler", pipe_handler}, {"segv-default", segv_default}, {"segv-handler", segv_handler}, {"segv-argument", segv_argument},
	{"waited-for", waited_for}, {"alarms", alarms_during_calls}, {"fork", forks}, {"threads", threads},
};

int main(int argc, char **argv)
{
	if (argc != 3)
		return 2;
	path = argv[1];
	load();
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
		if (strcmp(cases[i].name, argv[2]) == 0) {
			cases[i].run();
			return 0;
		}
	fprintf(stderr, "process: no such case\n");
	return 2;
}
