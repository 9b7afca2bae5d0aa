/* Results appear whole or not at all, under the right name and with the right mode. */
#include "tests/tools/run.h"

#include <dirent.h>

static char *profile(void)
{
    char *path = run_path("in.folded");
    run_write(path, "a;b 3\n", 6);
    return path;
}

static size_t files_in(const char *dir)
{
    size_t n = 0;
    DIR *d = opendir(dir);
    cr_assert_not_null(d);
    for (struct dirent *e; (e = readdir(d));)
        n += *e->d_name != '.';
    closedir(d);
    return n;
}

Test(weft_output, a_new_file_has_the_usual_mode, .fini = run_clean)
{
    char *in = profile(), *out = run_path("out.folded");
    struct stat st;
    umask(027);
    cr_assert_eq(run_weft(NULL, "collapse", in, "-o", out, NULL).status, 0);
    cr_assert_str_eq(run_read(out), "a;b 3\n");
    cr_assert_eq(stat(out, &st), 0);
    cr_assert_eq(st.st_mode & 0777, 0640);
    cr_assert_eq(files_in(run_dir), 2, "no temporary file stays");
}

Test(weft_output, an_old_file_is_replaced_and_keeps_its_mode, .fini = run_clean)
{
    char *in = profile(), *out = run_path("out.folded");
    struct stat st;
    run_write(out, "old\n", 4);
    chmod(out, 0604);
    cr_assert_eq(run_weft(NULL, "collapse", in, "-o", out, NULL).status, 0);
    cr_assert_str_eq(run_read(out), "a;b 3\n");
    stat(out, &st);
    cr_assert_eq(st.st_mode & 0777, 0604);
}

Test(weft_output, failure_leaves_the_old_file, .fini = run_clean)
{
    char *out = run_path("out.folded");
    run_write(out, "old\n", 4);
    run_expect_error(run_weft(NULL, "collapse", "/nowhere", "-o", out, NULL), 1, "/nowhere");
    cr_assert_str_eq(run_read(out), "old\n");
    cr_assert_eq(files_in(run_dir), 1);
}

Test(weft_output, a_link_stays_a_link, .fini = run_clean)
{
    char *in = profile(), *real = run_path("real"), *link = run_path("link");
    struct stat st;
    run_write(real, "old\n", 4);
    cr_assert_eq(symlink(real, link), 0);
    cr_assert_eq(run_weft(NULL, "collapse", in, "-o", link, NULL).status, 0);
    cr_assert(lstat(link, &st) == 0 && S_ISLNK(st.st_mode));
    cr_assert_str_eq(run_read(real), "a;b 3\n");
}

Test(weft_output, devices_are_written_in_place, .fini = run_clean)
{
    char *in = profile(), *fifo = run_path("fifo");
    struct stat st;
    cr_assert_eq(mkfifo(fifo, 0600), 0);
    int fd = open(fifo, O_RDWR);
    cr_assert_eq(run_weft(NULL, "collapse", in, "-o", fifo, NULL).status, 0);
    char text[16] = "";
    cr_assert_eq(read(fd, text, sizeof text - 1), 6);
    cr_assert_str_eq(text, "a;b 3\n");
    cr_assert(stat(fifo, &st) == 0 && S_ISFIFO(st.st_mode));
    run_expect_error(run_weft(NULL, "collapse", in, "-o", "/dev/full", NULL), 1,
                     "/dev/full: cannot write: No space left on device");
}

Test(weft_output, places_that_cannot_be_written_are_named, .fini = run_clean)
{
    char *in = profile();
    run_expect_error(run_weft(NULL, "collapse", in, "-o", "/nowhere/x", NULL), 1,
                     "/nowhere/x: cannot write: No such file or directory");
    run_expect_error(run_weft(NULL, "collapse", in, "-o", run_dir, NULL), 1, "is a directory");
}

Test(weft_output, a_reader_that_left_is_no_message, .fini = run_clean, .timeout = 60)
{
    char *in = run_path("big.folded"), command[400];
    FILE *f = fopen(in, "w");
    for (int i = 0; i < 50000; i++)
        fprintf(f, "some_function_%d;other_function_%d 3\n", i, i);
    fclose(f);
    char *err = run_path("err");
    snprintf(command, sizeof command,
             "{ %s collapse %s 2>%s; echo $? >%s.status; } | head -n 1 >/dev/null", WEFT_BIN, in,
             err, err);
    cr_assert_eq(system(command), 0);
    cr_assert_str_eq(run_read(err), "");
    cr_assert_str_eq(run_read(strcat(strcpy(malloc(200), err), ".status")), "1\n");
}
