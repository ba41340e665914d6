/* What the parts of libnvram share. Not installed. */
#ifndef ABI_H
#define ABI_H

#include <signal.h>
#include <stdbool.h>

#include "nvram.h"

#define TEXT_SIZE 1024

/* How a call failed. The Go side fills it, and nothing of it if the call succeeds. */
struct failure {
	int code; /* errno */
	char text[TEXT_SIZE];
};

/* What process.c keeps of the program while Go runs on its thread. */
struct visit {
	sigset_t mask;
};

/* Brackets every call into Go. Enter tells whether Go can be called at all, and nothing is to be left if it cannot. */
bool enter_go(struct visit *visit);
void leave_go(const struct visit *visit);

/* Puts back the limit of open files that the program had. Called by the Go side once it has raised it. */
void restore_file_limit(void);

#endif
