/* Which file stands for a module, and what its tables name: no DWARF, separate debug files, files
 * that were replaced, deleted or damaged, images in memory only. */
#include <sys/auxv.h>
#include <unistd.h>
#include "tests/profiler/present/fixture.h"

Test(symbol_elf, tables_where_there_is_no_dwarf, .init = setup, .fini = teardown, .timeout = 60)
{
    char prog[128], lib[128];
    bool named;

    snprintf(prog, sizeof prog, "%s/plain", dir);
    run("cd %s && gcc -O2 prog.c -Wl,--build-id=0x" BUILD_ID " -o plain", dir);
    pf_module m = module_for(prog, BUILD_ID);
    unsigned long outer = address_of(prog, "outer");
    cr_assert_str_eq(name_at(&m, outer + 4, &named), "outer");
    cr_assert(named);
    cr_assert_str_eq(name_at(&m, address_of(prog, "main"), NULL), "main");
    cr_assert_str_eq(name_at(&m, address_of(prog, "_start") + 1, NULL), "_start");

    /* A stripped library keeps only what it exports: the address of a static is no export's. */
    snprintf(lib, sizeof lib, "%s/lib.so", dir);
    run("cd %s && gcc -O2 -fPIC -shared prog.c -Wl,--build-id=0x" BUILD_ID " -o lib.so", dir);
    unsigned long hidden = address_of(lib, "outer"), public = address_of(lib, "exported");
    run("strip %s", lib);
    m = module_for(lib, BUILD_ID);
    cr_assert_str_eq(name_at(&m, public + 3, NULL), "exported");
    char expect[64];
    snprintf(expect, sizeof expect, "[lib.so+0x%lx]", hidden + 4);
    cr_assert_str_eq(name_at(&m, hidden + 4, &named), expect);
    cr_assert(!named);
}

Test(symbol_elf, separate_debug_files, .init = setup, .fini = teardown, .timeout = 60)
{
    char prog[128], debug[128];
    bool named;

    snprintf(prog, sizeof prog, "%s/sep", dir);
    snprintf(debug, sizeof debug, "%s/.debug/sep.debug", dir);
    run("cd %s && gcc -g -O2 prog.c -Wl,--build-id=0x" BUILD_ID " -o sep && mkdir .debug &&"
        " objcopy --only-keep-debug sep .debug/sep.debug && strip sep &&"
        " objcopy --add-gnu-debuglink=.debug/sep.debug sep",
        dir);
    pf_module m = module_for(prog, BUILD_ID);
    uintptr_t outer = address_of(debug, "outer");
    cr_assert_str_eq(name_at(&m, outer, &named), "outer");
    cr_assert(named);
    pf_symbols_begin();
    cr_assert(pf_symbol_find(&m, outer)->debug_info);
    pf_symbols_end();

    /* One that belongs to another build is not believed. */
    run("cd %s && gcc -g -O1 prog.c -Wl,--build-id=0x99 -o other &&"
        " objcopy --only-keep-debug other .debug/two.debug && cp sep two &&"
        " objcopy --remove-section=.gnu_debuglink two &&"
        " objcopy --add-gnu-debuglink=.debug/two.debug two",
        dir);
    snprintf(prog, sizeof prog, "%s/two", dir);
    m = module_for(prog, BUILD_ID);
    name_at(&m, outer, &named);
    cr_assert(!named);
}

Test(symbol_elf, another_build_is_not_believed, .init = setup, .fini = teardown, .timeout = 60)
{
    char prog[128];
    bool named;

    snprintf(prog, sizeof prog, "%s/plain", dir);
    run("cd %s && gcc -g -O2 prog.c -Wl,--build-id=0x" BUILD_ID " -o plain", dir);
    unsigned long at = address_of(prog, "outer");
    pf_module right = module_for(prog, BUILD_ID), wrong = module_for(prog, "ff" BUILD_ID),
              none = module_for(prog, ""), gone = module_for("/nowhere/libgone.so (deleted)", "ab");
    cr_assert_str_eq(name_at(&right, at, &named), "outer");
    cr_assert(named);
    name_at(&wrong, at, &named);
    cr_assert(!named);
    name_at(&none, at, &named); /* nothing is mapped from that file here */
    cr_assert(!named);
    cr_assert_str_eq(name_at(&gone, 0x1234, &named), "[libgone.so+0x1234]");
    cr_assert(!named);
}

Test(symbol_elf, vdso_is_read_from_memory)
{
    uintptr_t at = getauxval(AT_SYSINFO_EHDR);
    void *vdso = dlopen("linux-vdso.so.1", RTLD_NOW | RTLD_NOLOAD);
    void *f = vdso ? dlsym(vdso, "__vdso_clock_gettime") : NULL;

    if (!at || !f)
        return;
    pf_module m = {.start = at, .limit = at + 0x2000, .bias = at, .path = "[vdso]"};
    cr_assert_not_null(strstr(name_at(&m, (uintptr_t)f + 1, NULL), "clock_gettime"));
    char expect[64];
    snprintf(expect, sizeof expect, "[vdso+0x%x]", 2);
    cr_assert_str_eq(name_at(&m, at + 2, NULL), expect);
}

Test(symbol_elf, a_replaced_program_is_found_through_proc)
{
    pf_module m = module_at((void *)find_module);
    bool named;

    if (!m.build_id[0])
        return;
    m.path = "/nowhere/replaced";
    cr_assert_str_eq(name_at(&m, (uintptr_t)find_module, &named), "find_module");
    cr_assert(named);
}

Test(symbol_elf, a_deleted_library_is_named_from_its_image, .init = setup, .fini = teardown)
{
    char lib[128];
    bool named;

    snprintf(lib, sizeof lib, "%s/gone.so", dir);
    run("cd %s && gcc -O2 -g -fPIC -shared prog.c -Wl,--build-id=0x" BUILD_ID " -o gone.so", dir);
    void *h = dlopen(lib, RTLD_NOW);
    cr_assert_not_null(h, "%s", dlerror());
    void *f = dlsym(h, "exported");
    cr_assert_eq(unlink(lib), 0);
    pf_module m = module_at(f);
    cr_assert_str_eq(m.build_id, BUILD_ID);
    m.path = lib;
    m.limit -= 1; /* so that map_files has no such entry, as without privilege */
    cr_assert_str_eq(name_at(&m, (uintptr_t)f + 1, &named), "exported");
    cr_assert(named);
}

Test(symbol_elf, rubbish_files_are_survived, .init = setup, .fini = teardown, .timeout = 120)
{
    char prog[128], broken[128], name[64];
    unsigned seed = 7;
    size_t n;

    snprintf(prog, sizeof prog, "%s/whole", dir);
    run("cd %s && gcc -g -O2 prog.c -Wl,--build-id=0x" BUILD_ID " -o whole", dir);
    unsigned long at = address_of(prog, "outer");
    FILE *f = fopen(prog, "r");
    static unsigned char bytes[1 << 20], copy[sizeof bytes];
    n = fread(bytes, 1, sizeof bytes, f);
    fclose(f);
    for (int round = 0; round < 150; round++) {
        memcpy(copy, bytes, n);
        size_t keep = round % 5 == 4 ? n / 2 + (size_t)rand_r(&seed) % (n / 2) : n;
        /* The debug sections lie in the last third: the header and notes stay valid mostly. */
        for (int i = 0; i < 1 + round; i++)
            copy[n / 3 + (size_t)rand_r(&seed) % (n - n / 3)] = (unsigned char)rand_r(&seed);
        snprintf(name, sizeof name, "broken-%d", round);
        snprintf(broken, sizeof broken, "%s/%s", dir, name);
        f = fopen(broken, "w");
        fwrite(copy, 1, keep, f);
        fclose(f);
        pf_module m = module_for(broken, BUILD_ID);
        for (unsigned long v = at; v < at + 64; v += 3)
            cr_assert_gt(strlen(name_at(&m, v, NULL)), 0);
    }
}
