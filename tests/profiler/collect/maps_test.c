/* The module list against what the process knows of itself. */
#include "tests/profiler/collect/collect_check.h"
#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <unistd.h>

static const pf_module *find(const pf_raw *raw, uintptr_t pc)
{
    for (size_t i = 0; i < raw->nmodules; i++)
        if (pc >= raw->modules[i].start && pc < raw->modules[i].limit)
            return &raw->modules[i];
    return NULL;
}

Test(maps, program_libc_and_vdso)
{
    char exe[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
    cr_assert_gt(n, 0);
    exe[n] = 0;
    pf_raw raw;
    cr_assert_eq(pf_api.modules(&raw), 0);
    const pf_module *own = find(&raw, (uintptr_t)&find);
    cr_assert_eq(own, &raw.modules[0]);
    cr_assert_str_eq(own->path, exe);
    const pf_module *libc = find(&raw, (uintptr_t)dlsym(RTLD_NEXT, "gnu_get_libc_version"));
    cr_assert_not_null(libc);
    cr_assert_not_null(strstr(libc->path, "libc"));
    const pf_module *vdso = find(&raw, getauxval(AT_SYSINFO_EHDR) + 64);
    cr_assert_not_null(vdso);
    cr_assert_str_eq(vdso->path, "[vdso]");
    cr_assert_gt(strlen(libc->build_id), 15);
    cr_assert_eq(strspn(libc->build_id, "0123456789abcdef"), strlen(libc->build_id));
    pf_api.raw_free(&raw);
}

/* Each executable line of /proc/self/maps that has a file lies in its module, at its place in the
 * file. (A segment may be split there, where somebody has changed its protection.) */
Test(maps, agrees_with_the_kernel)
{
    pf_raw raw;
    char line[PATH_MAX + 100];
    int seen = 0;
    cr_assert_eq(pf_api.modules(&raw), 0);
    FILE *f = fopen("/proc/self/maps", "r");
    while (fgets(line, sizeof(line), f)) {
        unsigned long start, limit, offset;
        char perms[8];
        cr_assert_eq(sscanf(line, "%lx-%lx %7s %lx", &start, &limit, perms, &offset), 4);
        const pf_module *m = find(&raw, start);
        if (perms[2] != 'x' || !m || !strchr(line, '/'))
            continue;
        cr_assert_leq(limit, m->limit);
        cr_assert_eq(offset - m->offset, start - m->start);
        seen++;
    }
    fclose(f);
    cr_assert_geq(seen, 2);
    pf_raw_free(&raw);
}

/* The note in the file, by readelf, is the id that memory gives. */
Test(maps, build_id_of_the_program)
{
    pf_raw raw;
    char command[PATH_MAX + 100], line[200] = "";
    cr_assert_eq(pf_api.modules(&raw), 0);
    if (raw.modules[0].build_id[0]) {
        snprintf(command, sizeof(command), "readelf -n '%s' | sed -n 's/.*Build ID: //p'",
                 raw.modules[0].path);
        FILE *f = popen(command, "r");
        cr_assert_not_null(fgets(line, sizeof(line), f));
        pclose(f);
        line[strcspn(line, "\n")] = 0;
        cr_assert_str_eq(raw.modules[0].build_id, line);
    }
    pf_raw_free(&raw);
}
