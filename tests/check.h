/* What every test includes. Plain and in most builds this is Criterion, one process per test.
 * Debian's Criterion cannot start under ThreadSanitizer, so with -DWEFT_TEST_FORK the same names
 * are served by tests/check_fork.c: a fork per test, the same filter argument, the same closing
 * line.
 *
 * The assertions are ours in both cases. Criterion's own end a test by longjmp to the main
 * thread's frame, which from a coroutine or another thread jumps to a foreign stack; these print
 * one line and end the process, from wherever they are called.
 *
 * Test(suite, name, .timeout = seconds, .signal = SIGxxx, .exit_code = n, .init = fn, .fini = fn,
 *      .disabled = true) { ... }
 * cr_assert(cond, "fmt", ...), cr_assert_eq(a, b, "fmt", ...) and so on: the message is optional,
 * each operand is evaluated once, and both values of a failed comparison are printed as integers.
 */
#ifndef WEFT_TESTS_CHECK_H
#define WEFT_TESTS_CHECK_H

#ifdef WEFT_TEST_FORK
#include <stdbool.h>
#include <stddef.h>

struct check_test {
    const char *suite, *name;
    void (*run)(void);
    void (*init)(void), (*fini)(void);
    double timeout; /* seconds; 0 is the default of check_fork.c */
    int signal;     /* the test must end by it */
    int exit_code;  /* the test must end with it */
    bool disabled;
    const char *description;
    struct check_test *next;
};
void check_register(struct check_test *);

#define Test(suite_, name_, ...)                                                                   \
    static void suite_##_##name_##_run(void);                                                      \
    static struct check_test suite_##_##name_##_test = {                                           \
        .suite = #suite_, .name = #name_, .run = suite_##_##name_##_run, __VA_ARGS__};             \
    __attribute__((constructor)) static void suite_##_##name_##_link(void)                         \
    {                                                                                              \
        check_register(&suite_##_##name_##_test);                                                  \
    }                                                                                              \
    static void suite_##_##name_##_run(void)

#else
#include <criterion/criterion.h>
#undef cr_fail
#undef cr_assert
#undef cr_assert_eq
#undef cr_assert_neq
#undef cr_assert_lt
#undef cr_assert_leq
#undef cr_assert_gt
#undef cr_assert_geq
#undef cr_assert_null
#undef cr_assert_not_null
#undef cr_assert_str_eq
#undef cr_assert_str_neq
#endif

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* The status of a test that failed an assertion: no test may expect it as its own exit_code. */
#define CHECK_FAILED_STATUS 99

__attribute__((format(printf, 4, 5), noinline, unused)) static _Noreturn void
check_fail(const char *file, int line, const char *what, const char *fmt, ...)
{
    char text[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    dprintf(2, "[----] %s:%d: assertion failed: %s%s\n", file, line, what, text);
    _exit(CHECK_FAILED_STATUS);
}

#define check_fail_at(what, ...) check_fail(__FILE__, __LINE__, what, " " __VA_ARGS__)
#define cr_fail(...)             check_fail_at("reached", __VA_ARGS__)
#define cr_assert(cond, ...)                                                                       \
    do {                                                                                           \
        if (!(cond))                                                                               \
            check_fail_at(#cond, __VA_ARGS__);                                                     \
    } while (0)

/* Mixed signedness compares as C does; -Wsign-compare would also fire on a plain literal here. */
#define check_compare(a, op, b, ...)                                                               \
    do {                                                                                           \
        _Pragma("GCC diagnostic push")                                                             \
            _Pragma("GCC diagnostic ignored \"-Wsign-compare\"") __auto_type check_a = (a);        \
        __auto_type check_b = (b);                                                                 \
        if (!(check_a op check_b)) {                                                               \
            dprintf(2, "[----] left %lld, right %lld\n", (long long)check_a, (long long)check_b);  \
            check_fail_at(#a " " #op " " #b, __VA_ARGS__);                                         \
        }                                                                                          \
        _Pragma("GCC diagnostic pop")                                                              \
    } while (0)
#define cr_assert_eq(a, b, ...)    check_compare(a, ==, b, __VA_ARGS__)
#define cr_assert_neq(a, b, ...)   check_compare(a, !=, b, __VA_ARGS__)
#define cr_assert_lt(a, b, ...)    check_compare(a, <, b, __VA_ARGS__)
#define cr_assert_leq(a, b, ...)   check_compare(a, <=, b, __VA_ARGS__)
#define cr_assert_gt(a, b, ...)    check_compare(a, >, b, __VA_ARGS__)
#define cr_assert_geq(a, b, ...)   check_compare(a, >=, b, __VA_ARGS__)
#define cr_assert_null(p, ...)     cr_assert((p) == NULL, __VA_ARGS__)
#define cr_assert_not_null(p, ...) cr_assert((p) != NULL, __VA_ARGS__)

#define check_text(a, same, b, ...)                                                                \
    do {                                                                                           \
        const char *check_s = (a), *check_t = (b);                                                 \
        if (!check_s || !check_t || (strcmp(check_s, check_t) == 0) != (same)) {                   \
            dprintf(2, "[----] left \"%s\", right \"%s\"\n", check_s ? check_s : "(null)",         \
                    check_t ? check_t : "(null)");                                                 \
            check_fail_at("text " #a ", " #b, __VA_ARGS__);                                        \
        }                                                                                          \
    } while (0)
#define cr_assert_str_eq(a, b, ...)  check_text(a, 1, b, __VA_ARGS__)
#define cr_assert_str_neq(a, b, ...) check_text(a, 0, b, __VA_ARGS__)

#endif
