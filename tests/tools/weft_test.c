/* The command as such: help, version, what is not understood. */
#include "tests/tools/run.h"

Test(weft, help_and_version, .fini = run_clean)
{
    static const char *const commands[] = {"collapse", "flame", "top"};
    run_result r = run_weft(NULL, "--version", NULL);
    cr_assert_eq(r.status, 0);
    cr_assert(strncmp(r.out, "weft ", 5) == 0);
    r = run_weft(NULL, "--help", NULL);
    cr_assert_eq(r.status, 0);
    for (size_t i = 0; i < 3; i++) {
        cr_assert_not_null(strstr(r.out, commands[i]));
        run_result one = run_weft(NULL, commands[i], "--help", NULL);
        cr_assert_eq(one.status, 0);
        cr_assert_not_null(strstr(one.out, "usage: weft "));
        cr_assert_not_null(strstr(one.out, "-sample_index"));
        cr_assert_str_eq(one.err, "");
    }
}

Test(weft, no_command_is_a_usage_error, .fini = run_clean)
{
    run_result r = run_weft(NULL, NULL);
    cr_assert_eq(r.status, 2);
    cr_assert_str_eq(r.out, "");
    cr_assert_not_null(strstr(r.err, "usage: weft"));
    run_expect_error(run_weft(NULL, "squash", "x", NULL), 2, "squash: unknown command");
}

Test(weft, help_to_a_full_disk_is_an_error)
{
    char command[200];
    snprintf(command, sizeof command, "%s --help >/dev/full", WEFT_BIN);
    cr_assert_eq(WEXITSTATUS(system(command)), 1);
}
