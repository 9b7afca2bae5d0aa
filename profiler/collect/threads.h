/* The registry of threads, as cpu.c and threads.c share it. See threads.c. */
#ifndef WEFT_PF_THREADS_H
#define WEFT_PF_THREADS_H

#include "profiler/collect/pf.h"

typedef struct pf_thread {
    int32_t tid;    /* 0: free, -1: removed */
    int32_t timer;  /* the kernel's id of its CPU timer, -1: none */
    uint32_t meter; /* cpu.c: its place in the meters of the session `metered`, PF_NO_METER */
    uint32_t metered;
    uint32_t seen; /* the last sweep that found it alive */
    uint8_t kind;  /* weft_thread_kind, 0: a plain thread that a sweep found */
    bool aged;     /* its clock has time in it that was the profiler's */
    bool quiet;    /* the profiler's: no timer */
} pf_thread;

#define PF_NO_METER UINT32_MAX

extern PF_HIDDEN pf_lock pf_threads_lock; /* rank 2 */
/* Valid until the next find with make. NULL: not there, or no memory. */
PF_HIDDEN pf_thread *pf_thread_find_locked(int32_t tid, bool make);
/* Reads /proc/self/task: makes records of new threads, forgets dead ones, and arms whatever has no
 * timer and may have one. Returns how many threads live. */
PF_HIDDEN int pf_threads_sweep_locked(void);
PF_HIDDEN void pf_threads_disarm_all_locked(void);

/* cpu.c */
PF_HIDDEN void pf_cpu_arm_locked(pf_thread *);    /* no effect when no session runs */
PF_HIDDEN void pf_cpu_disarm_locked(pf_thread *); /* no effect when not armed */

#endif
