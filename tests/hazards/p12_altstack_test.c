/* H12: the handler may run on somebody else's small alternate stack, inside another handler. */
#include "tests/profiler/collect/collect_check.h"
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>

enum { ALT = 16 << 10, CANARY = 64 };
static char *alt;
static char *volatile cause;

static void on_fault(int signo, siginfo_t *si, void *context)
{
    (void)signo, (void)si, (void)context;
    check_burn(200000000);
    mprotect(cause, 4096, PROT_READ | PROT_WRITE);
}

static void *fault(void *arg)
{
    stack_t ss = {.ss_sp = alt + CANARY, .ss_size = ALT}, before;
    sigaltstack(&ss, &before);
    weft_label_set("thread", "faulting");
    *cause = 1;
    sigaltstack(&before, NULL); /* a sanitizer's own, which it wants back */
    return arg;
}

Test(p12, a_small_alternate_stack_is_enough, .timeout = 60)
{
    check_needs_prompt_signals();
    pthread_t t;
    pf_raw raw;
    struct sigaction sa = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK}, before;
    alt = mmap(NULL, ALT + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    cause = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(alt, 0x5a, CANARY);
    sigaction(SIGSEGV, &sa, &before);
    cr_assert_eq(pf_cpu_start(1000), 0);
    pthread_create(&t, NULL, fault, NULL);
    pthread_join(t, NULL);
    cr_assert_eq(pf_cpu_stop(&raw), 0);
    sigaction(SIGSEGV, &before, NULL);
    for (int i = 0; i < CANARY; i++)
        cr_assert_eq(alt[i], 0x5a);
    int64_t seen = 0;
    for (size_t i = 0; i < raw.nsamples; i++)
        if (!strcmp(check_label(&raw.samples[i], "thread"), "faulting"))
            seen += raw.samples[i].values[1];
    cr_assert_geq(seen, 100000000);
    pf_raw_free(&raw);
}
