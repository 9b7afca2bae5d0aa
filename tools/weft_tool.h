/* Private to the `weft` command: what its parts share. */
#ifndef WEFT_TOOL_H
#define WEFT_TOOL_H

#include "proto/profile.h"

#include <stdbool.h>
#include <stdio.h>

/* Exit statuses: 0, 1 for what went wrong, 2 for a command line that cannot be meant. */
enum { TOOL_OK = 0, TOOL_FAILED = 1, TOOL_USAGE = 2 };

/* One line "weft: THING: what" on stderr. Returns TOOL_FAILED, for tail calls. Bytes of foreign
 * origin in it are made printable. */
int tool_error(const char *thing, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

typedef struct tool_args {
    const char *command;
    const char *profile; /* the one operand */
    const char *output;  /* -o; NULL is stdout */
    const char *sample_index;
    const char *title;
    const char *diff;
    long seconds; /* 0: not given */
    long n;       /* -1: not given */
    long width;   /* 0: not given */
    bool cum;
} tool_args;

typedef struct tool_command {
    const char *name;
    const char *flags; /* the flags it takes, separated by spaces */
    const char *help;
    int (*run)(const tool_args *);
} tool_command;

/* Fills args from the words after the command. TOOL_OK, or TOOL_USAGE after one line on stderr. */
int tool_args_parse(tool_args *, const tool_command *, int argc, char **argv);

/* Reads FILE, -, http:// or unix: and decodes pprof or folded text, whichever the bytes are. NULL
 * after one line on stderr. */
pb_profile *tool_load(const tool_args *);
/* The bytes alone; malloc'd. 0, or TOOL_FAILED after one line. */
int tool_read(const char *source, long seconds, char **buf, size_t *n);

/* The column to show, or -1 after one line that lists the profile's columns. */
int tool_column(const tool_args *, const pb_profile *);

/* Where results go: a temporary file beside the target, which takes its name only when all is well;
 * stdout; or a device as it is. */
typedef struct tool_output {
    FILE *file;
    char *path, *temp; /* NULL for stdout; temp NULL for a device */
    const char *name;  /* for messages */
} tool_output;

int tool_output_open(tool_output *, const char *path);
/* rc is what the writer returned (negative errno or fine). TOOL_OK or TOOL_FAILED; on failure
 * nothing of the target has changed. */
int tool_output_close(tool_output *, int64_t rc);

int tool_collapse(const tool_args *);
int tool_flame(const tool_args *);
int tool_top(const tool_args *);

#endif
