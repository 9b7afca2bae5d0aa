/* The cache: each address has a name, and what happens to modules and processes does not confuse
 * it. What the names are is in symbol_elf_test.c and symbol_dwarf_test.c. */
#include <sys/mman.h>
#include <unistd.h>
#include "tests/profiler/present/fixture.h"

Test(symbol, an_unloaded_library_harms_nothing, .init = setup, .fini = teardown)
{
    char lib[128];

    snprintf(lib, sizeof lib, "%s/gone.so", dir);
    run("cd %s && gcc -O2 -g -fPIC -shared prog.c -Wl,--build-id=0x" BUILD_ID " -o gone.so", dir);
    void *h = dlopen(lib, RTLD_NOW);
    cr_assert_not_null(h);
    void *f = dlsym(h, "exported");
    pf_module m = module_at(f);
    m.path = lib;
    cr_assert_eq(dlclose(h), 0);
    cr_assert_str_eq(name_at(&m, (uintptr_t)f + 1, NULL), "exported");
    /* Nor does one that is gone from the disk and from memory, */
    cr_assert_eq(unlink(lib), 0);
    strcpy(m.build_id, "00");
    cr_assert_str_neq(name_at(&m, (uintptr_t)f + 1, NULL), "exported");
    /* nor one in whose place something else is mapped. */
    void *other = mmap((void *)(m.bias & ~4095ul), 65536, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (other != MAP_FAILED)
        memset(other, 0x7f, 65536);
    strcpy(m.build_id, "01");
    cr_assert_str_neq(name_at(&m, (uintptr_t)f + 1, NULL), "exported");
}

Test(symbol, synthetic_addresses_have_names)
{
    pf_symbols_begin();
    cr_assert_str_eq(pf_symbol_find(NULL, PF_TRUNCATED)->frames[0].name, "[truncated]");
    cr_assert_str_eq(pf_symbol_find(NULL, PF_NO_STACK)->frames[0].name, "[no stack]");
    for (uintptr_t i = 0; i < PF_SYNTHETIC_END; i++)
        cr_assert_eq(pf_symbol_find(NULL, i)->nframes, 1);
    cr_assert(!pf_symbol_find(NULL, 0x7f0012345678)->named);
    pf_symbols_end();
}

Test(symbol, a_child_after_fork_starts_anew)
{
    pf_symbols_begin();
    pf_symbols_forget();
    pf_symbols_begin(); /* would wait for ever otherwise */
    pf_symbols_end();
}
