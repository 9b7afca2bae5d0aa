/* What the parts of weft-demo share: the flags, the HTTP server, its routes, and the client that
 * drives load on it. */
#ifndef WEFT_DEMO_H
#define WEFT_DEMO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A function whose name must stand in a profile: never inlined, and never a ".constprop" clone. */
#if defined(__clang__)
#define DEMO_NAMED __attribute__((noinline))
#else
#define DEMO_NAMED __attribute__((noinline, noclone))
#endif
/* gcc makes no frame for a leaf function that keeps nothing on its stack, whatever the flags say,
 * and a walk by frame pointers then misses its caller. This makes it, at the cost of two
 * instructions. */
#define DEMO_FRAME() __asm__ volatile("" : : "r"(__builtin_frame_address(0)))

/* ---- flags (demo.c) ---- */

typedef struct demo_flag {
    const char *name;  /* with its dashes */
    const char **text; /* one of the two is set */
    long *number, min, max;
} demo_flag;

/* One line "weft-demo: ..." on stderr; returns 1, the exit status. */
int demo_fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Reads "--name value" and "--name=value" from argv[first] on; flags ends with a NULL name. 0, or 2
 * after one line that names the word. */
int demo_flags(const demo_flag *flags, int first, int argc, char **argv);

/* ---- the server (http.c) ---- */

typedef struct demo_request {
    char *path;
    char *query; /* behind the '?', "" for none */
} demo_request;

typedef struct demo_reply {
    int status;
    const char *type;
    size_t n;
    char body[6144];
} demo_reply;

/* Answers one request; runs on the connection's coroutine. */
typedef void (*demo_handler)(const demo_request *, demo_reply *);

/* Accepts connections on fd for ever, a coroutine for each. Returns a negative errno when fd
 * breaks. */
int demo_http_serve(int fd, demo_handler handler);
/* Appends to the body; what does not fit is cut. */
void demo_reply_add(demo_reply *, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The value of name in the query, copied to buf and cut at n bytes; false when it is not there. */
bool demo_query(const demo_request *, const char *name, char *buf, size_t n);

/* ---- the routes (routes.c) ---- */

void demo_route(const demo_request *, demo_reply *);

/* ---- the client (load.c) ---- */

/* `weft-demo load`: argv[0] is "load". Returns the exit status. */
int demo_load(int argc, char **argv);

#endif
