/* weft flame, end to end. */
#include "tests/tools/run.h"

Test(weft_flame, draws_profiles_and_folded_text_alike, .fini = run_clean)
{
    pb_profile *p = make_profile();
    make_stack(p, "main;run;hash", 7);
    char *file = run_profile(p, "p.pb.gz"), *text = run_path("p.folded"), *svg = run_path("x.svg");
    run_write(text, "main;run;hash 7\n", 16);
    run_result a = run_weft(NULL, "flame", file, NULL), b = run_weft(NULL, "flame", text, NULL);
    cr_assert_eq(a.status, 0);
    cr_assert(strncmp(a.out, "<?xml", 5) == 0);
    cr_assert_str_eq(a.out, b.out);
    cr_assert_eq(run_weft(NULL, "flame", file, "-o", svg, "--title", "<mine>", NULL).status, 0);
    char *drawn = run_read(svg);
    cr_assert_not_null(strstr(drawn, "<title>&lt;mine&gt;</title>"));
    cr_assert_not_null(strstr(drawn, "<title>hash\n7 samples, 100%"));
    pb_profile_free(p);
}

Test(weft_flame, width_is_taken, .fini = run_clean)
{
    char *text = run_path("p.folded");
    run_write(text, "main 7\n", 7);
    run_result r = run_weft(NULL, "flame", text, "--width=700", NULL);
    cr_assert_not_null(strstr(r.out, "width=\"700\""));
    run_expect_error(run_weft(NULL, "flame", text, "--width", "5", NULL), 2, "at least 200");
}

Test(weft_flame, what_is_not_there_yet_says_so, .fini = run_clean)
{
    char *text = run_path("p.folded"), *html = run_path("x.html");
    run_write(text, "main 7\n", 7);
    run_expect_error(run_weft(NULL, "flame", text, "-o", html, NULL), 2, "HTML is not supported");
    run_expect_error(run_weft(NULL, "flame", text, "--diff", text, NULL), 2,
                     "--diff: not supported");
    cr_assert_neq(access(html, F_OK), 0);
}
