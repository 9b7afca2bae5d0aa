/* Between poll.c and the calls of net.c, and between poll.c and its backend. See poll.c. (Not named
 * poll.h: -Iruntime would put it before the system's.) */
#ifndef WEFT_RT_POLL_H
#define WEFT_RT_POLL_H

#include "rt.h"
#include <limits.h>

/* ---- poll.c: the door for net.c ---- */

enum { RT_POLL_IN = 1, RT_POLL_OUT = 2 }; /* directions, as a mask */

/* What a call has seen of a descriptor; rt_poll_wait compares. */
typedef struct rt_poll_mark {
    uint32_t closes;  /* weft_close calls on this number */
    uint32_t word[2]; /* events per direction: in, out */
} rt_poll_mark;

/* At the start of a call; and before every further try: false when fd was closed meanwhile. */
RT_HIDDEN void rt_poll_begin(int fd, rt_poll_mark *mark);
RT_HIDDEN bool rt_poll_again(int fd, rt_poll_mark *mark);
/* After a try that gave -EAGAIN: 0 when another try may go through (also at once, when something
 * happened since the mark), -ETIMEDOUT, -EBADF when closed, or why the descriptor cannot be waited
 * on. */
RT_HIDDEN int rt_poll_wait(int fd, unsigned dirs, const rt_poll_mark *mark, int64_t deadline);
/* A call that has waited is done with dirs: the next one in the queue may try. */
RT_HIDDEN void rt_poll_pass(int fd, unsigned dirs);
/* Wakes all who wait with -EBADF, leaves the epoll set, closes the number. 0 or a negative errno.
 * */
RT_HIDDEN int rt_poll_close(int fd);
/* A guess that the caller must be able to find wrong: "not a socket". */
RT_HIDDEN bool rt_poll_hint(int fd);
RT_HIDDEN void rt_poll_hint_set(int fd, bool on);

/* ---- poll_epoll.c: the backend. Contract:
 *  - A registered descriptor reports each change to readable or writable once (an edge), and what
 *    is ready at registration counts as a change. Errors and hang-ups come with RT_EV_ALL, and a
 *    peer that shut down its half with RT_EV_IN.
 *  - Events carry the tag given at registration; they may come after rt_backend_del and after the
 *    number was reused. poll.c sorts them out.
 *  - All functions may be called by any number of threads at the same time. ---- */

enum { RT_EV_IN = 1, RT_EV_OUT = 2, RT_EV_ALL = 4 };
enum { RT_EV_BATCH = 128 };
typedef struct rt_event {
    uint64_t tag;
    uint32_t bits;
} rt_event;

RT_HIDDEN int rt_backend_init(void); /* once, before all others; 0 or a negative errno */
/* 1: fd is registered now and was not; 0: this open file was registered already (its tag stays);
 * -EPERM: it cannot be waited on; else a negative errno. Never both an event and 0. */
RT_HIDDEN int rt_backend_add(int fd, uint64_t tag);
RT_HIDDEN void rt_backend_del(int fd);
/* Up to RT_EV_BATCH events; waits at most ns (0 looks, < 0 for ever), less after a break. */
RT_HIDDEN int rt_backend_wait(int64_t ns, rt_event *events);
/* Ends one rt_backend_wait(ns != 0) that runs, or the next one. */
RT_HIDDEN void rt_backend_break(void);

#endif
